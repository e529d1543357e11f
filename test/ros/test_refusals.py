# SPDX-License-Identifier: Apache-2.0
"""Every refusal of ``select_target``: the reason names value and remedy, the target stays."""

from __future__ import annotations

import math

import pytest
from std_msgs.msg import Header

from tracker_interfaces.msg import TargetStatus

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("box", "words"),
    [
        pytest.param((NAN, 50.0, 40.0, 40.0), ["nan", "not finite"], id="nan centre"),
        pytest.param((50.0, 50.0, NAN, 40.0), ["nan", "not finite"], id="nan size"),
        pytest.param((INF, 50.0, 40.0, 40.0), ["inf", "not finite"], id="infinite"),
        pytest.param((50.0, 50.0, 0.0, 40.0), ["0 x 40", "at least 4"], id="zero width"),
        pytest.param((50.0, 50.0, 40.0, 0.0), ["40 x 0", "at least 4"], id="zero height"),
        pytest.param((50.0, 50.0, -40.0, 40.0), ["-40 x 40", "at least 4"], id="negative"),
        pytest.param((50.0, 50.0, 3.5, 40.0), ["3.5 x 40", "at least 4"], id="too small"),
        pytest.param(
            (-1e6, -1e6, 2e6, 2e6), ["2000000", "too large for the image of 320 x 240"], id="huge"
        ),
        pytest.param((-160.0, 0.0, 640.0, 240.0), ["640", "too large for the image"], id="wide"),
        pytest.param(
            (400.0, 50.0, 40.0, 40.0), ["420, 70", "does not overlap"], id="outside right"
        ),
        pytest.param(
            (50.0, -90.0, 40.0, 40.0), ["70, -70", "does not overlap"], id="outside above"
        ),
        pytest.param(
            (318.0, 50.0, 40.0, 40.0), ["2 x 40 px inside", "at least 4"], id="hardly inside"
        ),
    ],
)
def test_unusable_boxes(probe, box, words):
    target_id = probe.start_following("kept")
    header = probe.show().header
    response = probe.select(box, header)
    assert_refused(probe, response, words, target_id)


def test_rotated(probe):
    target_id = probe.start_following("kept")
    response = probe.select((50.0, 50.0, 40.0, 40.0), probe.show().header, theta=0.5)
    assert_refused(probe, response, ["theta 0.5", "upright"], target_id)


def test_wrong_frame_id(probe):
    target_id = probe.start_following("kept")
    header = probe.show().header
    header = Header(stamp=header.stamp, frame_id="map")
    response = probe.select((50.0, 50.0, 40.0, 40.0), header)
    assert_refused(probe, response, ["'map'", "'camera'", "leave frame_id empty"], target_id)


def test_stale_stamp_names_the_oldest_kept(probe):
    assert probe.set(buffer_seconds=0.2) == [(True, "")]
    old = probe.show().header
    target_id = probe.start_following("kept")
    limit = old.stamp.sec + old.stamp.nanosec / 1e9 + 0.5

    place = probe.place

    def later():
        probe.place = place
        stamp = probe.show().header.stamp
        return stamp.sec + stamp.nanosec / 1e9 > limit

    probe.until(later, "half a second of frames")
    response = probe.select((50.0, 50.0, 40.0, 40.0), old)
    assert probe.set(buffer_seconds=5.0) == [(True, "")]
    assert_refused(
        probe,
        response,
        [f"stamp {old.stamp.sec}.", "older than every frame kept", "the oldest is", "buffer_"],
        target_id,
    )


def test_stamp_ahead_of_every_frame(probe):
    target_id = probe.start_following("kept")
    header = probe.show().header
    header = Header(stamp=header.stamp, frame_id="camera")
    header.stamp.sec += 100
    response = probe.select((50.0, 50.0, 40.0, 40.0), header)
    assert_refused(
        probe, response, ["100.000 s ahead of the newest", "copy the header"], target_id
    )


def test_no_image_yet(make_probe, run_program):
    run_program("track", "--ros-args", "-r", "__ns:=/blind")
    probe = make_probe("/blind")
    probe.connect()
    response = probe.select((50.0, 50.0, 40.0, 40.0))
    assert not response.success
    assert "no image has arrived on /blind/image" in response.message
    assert "start the camera" in response.message
    assert response.target_id == ""


def assert_refused(probe, response, words, target_id):
    """Refused for that reason; the earlier target is followed as before."""
    assert not response.success
    assert response.target_id == ""
    for word in words:
        assert word in response.message
    status = probe.show()
    assert (status.state, status.target_id) == (TargetStatus.TRACKING, target_id)
    target = probe.until(lambda: probe.target_of(status.header), "a box after the refusal")
    assert (target.id, target.results[0].hypothesis.class_id) == (target_id, "kept")
    assert probe.follows(target)
