# SPDX-License-Identifier: Apache-2.0
"""What a camera may do: pause, change its size or encoding, send rubbish, jump in time, flood."""

from __future__ import annotations

import time

import cv2
import numpy as np
import pytest
from builtin_interfaces.msg import Time
from delegating_tracker import DelegatingTracker
from std_msgs.msg import Header

from tracker_interfaces.msg import TargetStatus
from tracker_ros.io.image_encodings import supported_encodings
from tracker_ros.nodes.track import TrackNode

SLOW_S = 0.1


def encoded(rgb: np.ndarray, encoding: str) -> np.ndarray:
    """Bytes of an image in another encoding, rows by columns by bytes."""
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    if encoding == "bgr8":
        return rgb[:, :, ::-1]
    if encoding == "mono16":
        return (grey.astype("<u2") * 257)[:, :, None].view(np.uint8)
    if encoding == "yuyv":
        y, u, v = cv2.split(cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV))
        luma = 16 + y.astype(float) * 219 / 255
        packed = np.empty((*grey.shape, 2), np.uint8)
        packed[:, :, 0] = luma
        packed[:, 0::2, 1] = u[:, 0::2]
        packed[:, 1::2, 1] = v[:, 0::2]
        return packed
    return grey


@pytest.mark.parametrize("encoding", ["bgr8", "mono8", "mono16", "yuyv"])
def test_other_encodings_are_followed(probe, make_message, encoding):
    picture = encoded(probe.scene.image(1), encoding)
    status = probe.show(make=lambda header: make_message(picture, header, encoding))
    assert status.frames_rejected == probe.show().frames_rejected
    header = probe.show(
        make=lambda h: make_message(encoded(probe.scene.image(probe.place), encoding), h, encoding)
    ).header
    assert probe.select(probe.scene.box(probe.place), header).success
    for _ in range(4):
        status = probe.show(
            make=lambda h: make_message(
                encoded(probe.scene.image(probe.place), encoding), h, encoding
            )
        )
    target = probe.until(lambda: probe.target_of(status.header), "a box")
    assert probe.follows(target)


def test_a_narrow_thermal_band_is_followed_like_the_full_range(probe, make_message):
    overlaps = []
    for low, high in ((0, 65_535), (7_600, 8_110)):

        def make(header, low=low, high=high):
            grey = cv2.cvtColor(probe.scene.image(probe.place), cv2.COLOR_RGB2GRAY)
            counts = (low + grey * ((high - low) / 255)).astype("<u2")
            return make_message(counts[:, :, None].view(np.uint8), header, "mono16")

        probe.begin()
        assert probe.select(probe.scene.box(probe.place), probe.show(make=make).header).success
        for _ in range(4):
            status = probe.show(make=make)
        target = probe.until(lambda s=status: probe.target_of(s.header), "a box")
        overlaps.append(probe.overlap(target))
    assert overlaps[0] > 0.7
    assert overlaps[1] == pytest.approx(overlaps[0], abs=0.05)


def test_an_unknown_encoding_is_told_once_and_the_node_goes_on(probe, make_message):
    target_id = probe.start_following()
    before = probe.show().frames_rejected
    for _ in range(2):
        status = probe.show(
            make=lambda h: make_message(probe.scene.image(probe.place), h, "secret9")
        )
    assert status.frames_rejected >= before + 2
    errors = [log.msg for log in probe.logs if "'secret9'" in log.msg]
    assert len(errors) == 1
    assert all(name in errors[0] for name in supported_encodings())
    level, message = probe.until(
        lambda: (found := probe.level_of("images"))[0] == b"\x02" and found, "diagnostics ERROR"
    )
    assert "'secret9'" in message
    status = probe.until(
        lambda: (s := probe.show()).state == TargetStatus.TRACKING and s, "tracking again"
    )
    assert status.target_id == target_id
    probe.until(
        lambda: probe.show() and probe.level_of("images")[0] == b"\x00", "diagnostics OK again"
    )


def test_depth_is_told_from_a_picture(probe, make_message):
    probe.start_following()
    depth = np.zeros((240, 320, 2), np.uint8)
    probe.show(make=lambda header: make_message(depth, header, "16UC1"))
    probe.until(lambda: any("is depth" in log.msg for log in probe.logs), "an explanation")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ({"height": 480}, "230400 bytes, wanted at least 460800"),
        ({"step": 10}, "step is 10 bytes, wanted at least 960"),
        ({"width": 0}, "0x240 pixels"),
    ],
)
def test_malformed_images_are_rejected(probe, make_message, damage, words):
    target_id = probe.start_following()
    before = probe.show().frames_rejected

    def broken(header):
        message = make_message(probe.scene.image(probe.place), header)
        for name, value in damage.items():
            setattr(message, name, value)
        return message

    assert probe.show(make=broken).frames_rejected > before
    probe.until(lambda: any(words in log.msg for log in probe.logs), "a log of the reason")
    assert probe.follow(1).id == target_id


def test_a_selection_on_an_unreadable_image_is_refused(probe, make_message):
    target_id = probe.start_following()
    header = probe.show(
        make=lambda h: make_message(probe.scene.image(probe.place), h, "secret9")
    ).header
    response = probe.select(probe.scene.box(probe.place), header)
    assert response.code == response.UNREADABLE_IMAGE
    assert "'secret9'" in response.message
    assert probe.follow(1).id == target_id


def test_a_camera_that_stops_and_comes_back(probe):
    target_id = probe.start_following()
    probe.follow(3)
    probe.targets.clear()
    lost = probe.until(
        lambda: probe.statuses[-1].state == TargetStatus.LOST and probe.statuses[-1],
        "LOST without images",
    )
    assert lost.target_id == target_id
    assert lost.seconds_since_seen > 1.0
    assert probe.targets == []
    status = probe.until(
        lambda: (s := probe.show()).state == TargetStatus.TRACKING and s, "tracking again"
    )
    assert status.target_id == target_id


def test_a_target_out_of_sight_is_lost_and_found_with_its_id(probe, make_message):
    target_id = probe.start_following()
    probe.follow(2)
    assert probe.set(score_lost=0.1, lost_after=0.2) == [(True, "")] * 2
    assert probe.set(score_found=0.25) == [(True, "")]
    place, states = probe.place, []

    def covered():
        probe.place = place
        status = probe.show(
            make=lambda header: make_message(np.zeros((240, 320, 3), np.uint8), header)
        )
        states.append(status.state)
        return status.state == TargetStatus.LOST

    probe.until(covered, "LOST behind a covered lens")
    assert states[0] == TargetStatus.UNCERTAIN
    probe.targets.clear()
    assert covered()
    assert probe.targets == [], "a lost target is silent"

    def back():
        probe.place = place
        return (s := probe.show()).state == TargetStatus.TRACKING and s

    status = probe.until(back, "found again")
    assert status.target_id == target_id
    assert probe.until(lambda: probe.target_of(status.header), "its box").id == target_id


def test_resolution_changes_in_mid_stream(probe, make_message):
    target_id = probe.start_following()
    probe.follow(3)
    small = probe.scene
    large = type(small)(640, 480)
    place = probe.place

    def enlarged(header):
        probe.place = place
        return make_message(
            cv2.resize(small.image(place), (640, 480), interpolation=cv2.INTER_LINEAR), header
        )

    for _ in range(3):
        status = probe.show(make=enlarged)
    assert status.target_id == target_id
    assert status.frames_rejected == probe.show(make=enlarged).frames_rejected
    probe.scene, probe.place = large, place
    header = probe.show().header
    assert probe.select(large.box(probe.place), header).success
    assert probe.follows(probe.follow(4))


def test_stamps_that_jump_back_begin_a_new_sequence(probe, make_message):
    target_id = probe.start_following()
    old = probe.show().header
    early = Time(sec=1000)

    def shown_at(nanoseconds):
        header = Header(stamp=Time(sec=early.sec, nanosec=nanoseconds), frame_id="camera")
        probe.place += 1
        for _ in range(5):
            probe.publish(make_message(probe.scene.image(probe.place), header))
            if probe.until(lambda: probe.status_of(header), "", timeout_s=2.0, fail=False):
                return header
        return pytest.fail("no status for an image from the past")

    for i in range(3):
        header = shown_at(i * 30_000_000)
    target = probe.until(lambda: probe.target_of(header), "a box in the new sequence")
    assert target.id == target_id
    refused = probe.select((50.0, 50.0, 40.0, 40.0), old)
    assert refused.code == refused.FUTURE_STAMP


def test_images_without_stamps_can_be_followed(probe, make_message):
    header = Header(frame_id="camera")

    def shown():
        probe.place += 1
        probe.targets.clear()
        probe.publish(make_message(probe.scene.image(probe.place), header))
        return probe.until(lambda: probe.targets, "", timeout_s=1.0, fail=False)

    count = len(probe.statuses)
    probe.publish(make_message(probe.scene.image(1), header))
    probe.until(lambda: len(probe.statuses) > count, "a status")
    probe.place = 1
    assert probe.select(probe.scene.box(1), Header()).success
    found = probe.until(shown, "a box")
    assert found[-1].header == header
    assert probe.follows(found[-1])


def test_latency_stays_bounded_when_the_camera_is_too_fast(make_probe, spin, tiny_tracker):
    class Slow(DelegatingTracker):
        """The real model, slowed down so that every machine is too slow for the camera."""

        def track(self, image):
            time.sleep(SLOW_S)
            return super().track(image)

    probe = make_probe()
    spin(lambda: TrackNode(lambda parameters: Slow(tiny_tracker)))
    probe.connect()
    probe.start_following()
    probe.statuses.clear()
    sent = 0

    def flood():
        nonlocal sent
        sent += 1
        probe.place += 1
        image = probe.scene.image(probe.place)
        probe.publish(probe_message(image, probe.header()))
        return sent >= 200

    probe.until(flood, "200 frames", timeout_s=60)
    last = probe.header()
    tracked = [s for s in probe.statuses if s.processing_time > 0]
    assert len(tracked) >= 5
    work = max(s.processing_time for s in tracked)
    latencies = [s.latency for s in tracked]
    assert max(latencies) < 3 * work + 0.3, latencies
    assert sent * SLOW_S > 3 * (3 * work + 0.3), "a queue would have been far over this bound"
    final = tracked[-1]
    assert final.frames_dropped > final.frames_tracked
    assert final.frames_tracked + final.frames_dropped <= final.frames_received
    assert last.stamp.sec - final.header.stamp.sec <= 1


def probe_message(image, header):
    """An rgb8 message of an image."""
    from tracker_ros.nodes.messages import image_from_array

    return image_from_array(image, header)
