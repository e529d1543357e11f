# SPDX-License-Identifier: Apache-2.0
"""The image for timing and for checking graphs: repeatable, with a target that stands out."""

from __future__ import annotations

import numpy as np
import pytest

from tracker_ros.example_image import example_image


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
