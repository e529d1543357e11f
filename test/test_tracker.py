# SPDX-License-Identifier: Apache-2.0
"""What every tracker does unless its family does it better."""

import numpy as np
import pytest

from tracker_ros.tracker import Tracker, TrackResult, example_image

IMAGE = np.zeros((40, 60, 3), np.uint8)


class Plain(Tracker):
    """Only what a tracker must have."""

    def initialize(self, image, box):
        self.box = tuple(box)

    def track(self, image):
        return TrackResult(self.box, 1.0, None, self.box)

    def warm_up(self):
        pass


def test_a_mask_stands_for_the_box_around_it():
    tracker = Plain()
    mask = np.zeros((40, 60), bool)
    mask[10:20, 30:34] = True
    tracker.initialize_mask(IMAGE, mask)
    assert tracker.box == (30.0, 10.0, 4.0, 10.0)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.ones((60, 40), bool), r"mask has shape \(60, 40\); expected \(40, 60\)"),
        (np.zeros((40, 60), bool), "mask has no pixel set"),
    ],
)
def test_an_unusable_mask_is_named_and_changes_nothing(mask, message):
    tracker = Plain()
    tracker.initialize(IMAGE, (1.0, 2.0, 3.0, 4.0))
    with pytest.raises(ValueError, match=message):
        tracker.initialize_mask(IMAGE, mask)
    assert tracker.box == (1.0, 2.0, 3.0, 4.0)


def test_nothing_is_explained_unless_asked_for():
    assert not Plain().explain


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("size", [(64, 64), (100, 150), (480, 640)])
def test_the_target_stands_out(size: tuple[int, int], seed: int) -> None:
    image, (x, y, w, h) = example_image(*size, seed)
    assert image.shape == (*size, 3)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, example_image(*size, seed)[0])
    inside = np.zeros(size, dtype=bool)
    inside[int(y) : int(y + h), int(x) : int(x + w)] = True
    assert image[inside].min() > image[~inside].max()
    assert inside.sum() == w * h


def test_a_moved_target_looks_the_same() -> None:
    (first, (x, y, w, h)), (later, box) = (
        example_image(96, 128),
        example_image(96, 128, 0, (5, -3)),
    )
    assert box == (x + 5, y - 3, w, h)

    def shown(image: np.ndarray, x: float, y: float) -> np.ndarray:
        return image[int(y) : int(y + h), int(x) : int(x + w)]

    np.testing.assert_array_equal(shown(first, x, y), shown(later, x + 5, y - 3))
    assert (example_image(96, 128, 1)[0] != first).any()
