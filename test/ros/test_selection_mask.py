# SPDX-License-Identifier: Apache-2.0
"""The topic ``selection_mask``: a target's pixels, under the same contract as a box."""

from __future__ import annotations

import numpy as np
import pytest
from delegating_tracker import DelegatingTracker
from sensor_msgs.msg import Image

from tracker_interfaces.msg import TargetStatus
from tracker_ros.nodes.messages import image_from_array


class Starts(DelegatingTracker):
    """Follows masks, to all appearances; remembers what it was started on."""

    def initialize_mask(self, image, mask):
        self.started = image.copy(), mask.copy()
        super().initialize_mask(image, mask)


def mask_of(probe) -> np.ndarray:
    """The disc's pixels at the present place, 255 on it."""
    with_disc, without = (probe.scene.image(probe.place, seen) for seen in (True, False))
    return (with_disc != without).any(axis=2).astype(np.uint8) * 255


def give(probe, message: Image) -> None:
    """Publish a mask when somebody listens."""
    probe.until(lambda: probe.masks.get_subscription_count() > 0, "a listener")
    probe.masks.publish(message)


def test_a_mask_starts_the_model_on_its_own_frame(local):
    stage, probe = local
    stage.inner = tracker = Starts(stage.inner)
    header, mask = probe.show().header, mask_of(probe)
    image = probe.scene.image(probe.place)
    for _ in range(3):
        probe.show()
    give(probe, image_from_array(mask, header))
    probe.until(lambda: any(s.state == TargetStatus.TRACKING for s in probe.statuses), "tracking")
    assert np.array_equal(tracker.started[0], image)
    assert tracker.started[1].dtype == bool
    assert np.array_equal(tracker.started[1], mask > 0)
    target = probe.follow(2)
    assert probe.follows(target)
    assert target.results[0].hypothesis.class_id == "ostrack_tiny"
    text = f"following target {target.id}"
    probe.until(lambda: any(text in log.msg for log in probe.logs), "a log")


def test_a_model_of_boxes_starts_on_the_box_around_it(probe):
    header, mask = probe.show().header, mask_of(probe)
    message = image_from_array(mask // 255, header)
    message.encoding = "8UC1"
    give(probe, message)
    probe.until(lambda: any(s.state == TargetStatus.TRACKING for s in probe.statuses), "tracking")
    assert probe.follows(probe.follow(3))


def test_a_mask_can_add_a_target(probe):
    first = probe.start_following()
    header = probe.show().header
    probe.until(lambda: probe.added_masks.get_subscription_count() > 0, "a subscription")
    probe.added_masks.publish(image_from_array(mask_of(probe), header))
    statuses = probe.until(
        lambda: len(probe.arrays[-1].statuses) == 2 and probe.arrays[-1].statuses, "two targets"
    )
    assert statuses[0].target_id == first
    assert statuses[1].target_id not in ("", first)


def spoiled(message: Image, **changes) -> Image:
    for name, value in changes.items():
        setattr(message, name, value)
    return message


def small(header):
    mask = np.zeros((240, 320), np.uint8)
    mask[5:8, 5:50] = 1
    return image_from_array(mask, header)


def two(header):
    mask = np.zeros((240, 320), np.uint8)
    mask[5:30, 5:50], mask[80:120, 5:50] = 1, 2
    return image_from_array(mask, header)


def plain(header, rows=240, columns=320):
    return image_from_array(np.full((rows, columns), 9, np.uint8), header)


BAD = {
    "colour": (
        lambda h: image_from_array(np.full((240, 320, 3), 9, np.uint8), h),
        "INVALID_MASK: mask has encoding 'rgb8'",
    ),
    "empty": (lambda h: image_from_array(np.zeros((240, 320), np.uint8), h), "INVALID_MASK"),
    "two": (two, "INVALID_MASK: mask shows 2 objects, 1, 2"),
    "small": (small, "INVALID_MASK"),
    "size": (lambda h: plain(h, 120, 160), "INVALID_MASK"),
    "malformed": (lambda h: spoiled(plain(h), height=480), "INVALID_MASK"),
    "frame": (
        lambda h: plain(spoiled(type(h)(stamp=h.stamp), frame_id="map")),
        "WRONG_FRAME_ID",
    ),
}


@pytest.mark.parametrize(("make", "words"), BAD.values(), ids=BAD)
def test_a_bad_mask_is_logged_and_changes_nothing(probe, make, words):
    target_id = probe.start_following("kept")
    give(probe, make(probe.show().header))
    probe.until(lambda: any(words in log.msg for log in probe.logs), "a log of the refusal")
    target = probe.follow(1)
    assert (target.id, target.results[0].hypothesis.class_id) == (target_id, "kept")


def test_a_model_that_fails_to_start_leaves_the_earlier_target(local):
    class Damaged(DelegatingTracker):
        fails = False

        def initialize(self, image, box):
            if self.fails:
                raise RuntimeError("the network returned a filter that is not finite")
            super().initialize(image, box)

    stage, probe = local
    stage.inner = damaged = Damaged(stage.inner)
    target_id = probe.start_following()
    probe.follow(1)
    damaged.fails = True
    response = probe.select(probe.scene.box(probe.place), probe.show().header)
    assert (response.code, response.target_id) == (response.MODEL_FAILED, "")
    assert "filter that is not finite" in response.message
    target = probe.follow(1)
    assert target.id == target_id
    assert probe.follows(target)
    damaged.fails = False
    assert probe.start_following() != target_id
    probe.follow(1)
