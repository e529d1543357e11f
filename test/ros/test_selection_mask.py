# SPDX-License-Identifier: Apache-2.0
"""The topic ``selection_mask``: a target's pixels, under the same contract as a box."""

from __future__ import annotations

import numpy as np
import pytest
from delegating_tracker import DelegatingTracker
from sensor_msgs.msg import Image

from tracker_interfaces.msg import TargetStatus
from tracker_ros.nodes.messages import image_from_array
from tracker_ros.nodes.track import TrackNode


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


def test_a_mask_starts_the_model_on_its_own_frame(make_probe, spin, tiny_tracker):
    probe = make_probe("")
    tracker = Starts(tiny_tracker)
    spin(lambda: TrackNode(lambda parameters: tracker))
    probe.connect()
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
    probe.until(lambda: any("following target 1" in log.msg for log in probe.logs), "a log")


def test_a_model_of_boxes_starts_on_the_box_around_it(probe):
    header, mask = probe.show().header, mask_of(probe)
    message = image_from_array(mask // 255, header)
    message.encoding = "8UC1"
    give(probe, message)
    probe.until(lambda: any(s.state == TargetStatus.TRACKING for s in probe.statuses), "tracking")
    assert probe.follows(probe.follow(3))


def spoiled(message: Image, **changes) -> Image:
    for name, value in changes.items():
        setattr(message, name, value)
    return message


def small(header):
    mask = np.zeros((240, 320), np.uint8)
    mask[5:8, 5:50] = 1
    return image_from_array(mask, header)


BAD = {
    "colour": (
        lambda h: image_from_array(np.full((240, 320, 3), 9, np.uint8), h),
        "encoding 'rgb8': publish it as mono8",
    ),
    "empty": (lambda h: image_from_array(np.zeros((240, 320), np.uint8), h), "mask is empty"),
    "small": (small, "too small, 45 x 3 pixels"),
    "size": (
        lambda h: image_from_array(np.full((120, 160), 9, np.uint8), h),
        "160 x 120 pixels does not fit the image of that stamp (320 x 240)",
    ),
    "malformed": (
        lambda h: spoiled(image_from_array(np.full((240, 320), 9, np.uint8), h), height=480),
        "mask is malformed",
    ),
    "frame": (
        lambda h: image_from_array(
            np.full((240, 320), 9, np.uint8), spoiled(type(h)(stamp=h.stamp), frame_id="map")
        ),
        "frame_id is 'map'",
    ),
}


@pytest.mark.parametrize(("make", "words"), BAD.values(), ids=BAD)
def test_a_bad_mask_is_logged_and_changes_nothing(probe, make, words):
    target_id = probe.start_following("kept")
    give(probe, make(probe.show().header))
    probe.until(
        lambda: any(words in log.msg and "refused" in log.msg for log in probe.logs),
        "a log of the refusal",
    )
    target = probe.follow(1)
    assert (target.id, target.results[0].hypothesis.class_id) == (target_id, "kept")


def test_a_model_that_fails_to_start_leaves_the_earlier_target(make_probe, spin, tiny_tracker):
    class Damaged(DelegatingTracker):
        fails = False

        def initialize(self, image, box):
            if self.fails:
                raise RuntimeError("the network returned a filter that is not finite")
            super().initialize(image, box)

    damaged = Damaged(tiny_tracker)
    probe = make_probe("")
    spin(lambda: TrackNode(lambda parameters: damaged))
    probe.connect()
    target_id = probe.start_following()
    probe.follow(1)
    damaged.fails = True
    response = probe.select(probe.scene.box(probe.place), probe.show().header)
    assert not response.success
    assert response.target_id == ""
    for words in ("the model failed", "filter that is not finite"):
        assert words in response.message
    target = probe.follow(1)
    assert target.id == target_id
    assert probe.follows(target)
    damaged.fails = False
    assert probe.start_following() != target_id
    probe.follow(1)
