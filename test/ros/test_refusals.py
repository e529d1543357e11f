# SPDX-License-Identifier: Apache-2.0
"""Requests that are refused: the code says why, the target is kept; and requests that wait."""

from __future__ import annotations

import math

import pytest
from lifecycle_msgs.msg import Transition
from rclpy.duration import Duration
from rclpy.qos import QoSProfile
from rclpy.time import Time
from std_msgs.msg import Header
from vision_msgs.msg import Detection2D

from tracker_interfaces.msg import TargetStatus
from tracker_interfaces.srv import RemoveTarget, SelectTarget
from tracker_ros.following.selection import SelectionCode
from tracker_ros.following.target_state import Doubt, TargetState

NAN, INF = math.nan, math.inf
BOX = (50.0, 50.0, 40.0, 40.0)
Answer = SelectTarget.Response
REFUSED_IN_A_FLOOD = {Answer.TOO_MANY_TARGETS, Answer.BUSY, Answer.STALE_STAMP}


def constants(kind):
    """The constants of a message class by name."""
    found = {name: getattr(kind, name) for name in dir(kind) if name.isupper()}
    return {name: value for name, value in found.items() if isinstance(value, int)}


def test_the_interfaces_have_the_packages_numbers():
    codes = {code.name: code.value for code in SelectionCode}
    assert constants(Answer) == codes
    assert constants(RemoveTarget.Response).items() <= codes.items()
    numbers = [(each.name, each.value) for kind in (TargetState, Doubt) for each in kind]
    assert constants(TargetStatus) == dict(numbers)


@pytest.mark.parametrize(
    ("box", "code"),
    [
        pytest.param((NAN, 50.0, 40.0, 40.0), Answer.INVALID_BOX, id="nan centre"),
        pytest.param((50.0, 50.0, NAN, 40.0), Answer.INVALID_BOX, id="nan size"),
        pytest.param((INF, 50.0, 40.0, 40.0), Answer.INVALID_BOX, id="infinite"),
        pytest.param((50.0, 50.0, 0.0, 40.0), Answer.INVALID_BOX, id="zero width"),
        pytest.param((50.0, 50.0, 40.0, 0.0), Answer.INVALID_BOX, id="zero height"),
        pytest.param((50.0, 50.0, -40.0, 40.0), Answer.INVALID_BOX, id="negative"),
        pytest.param((50.0, 50.0, 3.5, 40.0), Answer.INVALID_BOX, id="too small"),
        pytest.param((-1e6, -1e6, 2e6, 2e6), Answer.INVALID_BOX, id="huge"),
        pytest.param((-160.0, 0.0, 640.0, 240.0), Answer.INVALID_BOX, id="wide"),
        pytest.param((400.0, 50.0, 40.0, 40.0), Answer.OUTSIDE_IMAGE, id="outside right"),
        pytest.param((50.0, -90.0, 40.0, 40.0), Answer.OUTSIDE_IMAGE, id="outside above"),
        pytest.param((318.0, 50.0, 40.0, 40.0), Answer.OUTSIDE_IMAGE, id="hardly inside"),
    ],
)
def test_unusable_boxes(probe, box, code):
    target_id = probe.start_following("kept")
    assert_refused(probe, probe.select(box, probe.show().header), code, target_id)


def test_rotated(probe):
    target_id = probe.start_following("kept")
    response = probe.select(BOX, probe.show().header, theta=0.5)
    assert_refused(probe, response, Answer.INVALID_BOX, target_id)


def test_wrong_frame_id(probe):
    target_id = probe.start_following("kept")
    header = Header(stamp=probe.show().header.stamp, frame_id="map")
    response = probe.select(BOX, header)
    assert_refused(probe, response, Answer.WRONG_FRAME_ID, target_id)
    for word in ("'map'", "'camera'", "leave frame_id empty"):
        assert word in response.message


def test_stale_stamp(probe):
    assert probe.set(buffer_seconds=0.2) == [(True, "")]
    old = probe.show().header
    target_id = probe.start_following("kept")
    place = probe.place
    later = probe.node.get_clock().now() + Duration(seconds=0.5)
    probe.until(lambda: probe.node.get_clock().now() > later, "half a second")
    probe.place = place
    probe.show()
    assert_refused(probe, probe.select(BOX, old), Answer.STALE_STAMP, target_id)


def test_stamp_ahead_of_every_frame(probe):
    target_id = probe.start_following("kept")
    header = probe.show().header
    header = Header(stamp=header.stamp, frame_id="camera")
    header.stamp.sec += 100
    assert_refused(probe, probe.select(BOX, header), Answer.FUTURE_STAMP, target_id)


def test_no_image_yet(waiting_probe):
    probe = waiting_probe
    assert probe.change(Transition.TRANSITION_CONFIGURE)
    probe.until(lambda: probe.change(Transition.TRANSITION_ACTIVATE), "activation")
    response = probe.select(BOX)
    assert (response.code, response.success) == (Answer.NO_IMAGE, False)
    assert response.target_id == ""
    assert "/waiting/image" in response.message
    assert probe.change(Transition.TRANSITION_DEACTIVATE)
    assert probe.change(Transition.TRANSITION_CLEANUP)


def test_a_request_that_waits_for_its_image_blocks_nothing(probe):
    """A stamp 0.3 s ahead of a camera of 10 Hz is accepted each time."""
    for _ in range(5):
        newest = Time.from_msg(probe.show().header.stamp)
        stamps = [newest + Duration(seconds=0.1 * i) for i in (1, 2, 3)]
        header = Header(stamp=stamps[-1].to_msg(), frame_id="camera")
        request = probe.request(probe.scene.box(probe.place + 3), header)
        future = probe.selector.call_async(request)
        assert probe.set(debug_rate=10.0) == [(True, "")], "parameters are not blocked"
        for stamp in stamps:
            assert probe.show(stamp=stamp.to_msg()), "images are not blocked"
        probe.until(future.done, "an answer")
        assert future.result().code == Answer.OK, future.result().message
        assert future.result().stamp == header.stamp


def test_a_hundred_requests_at_once_are_all_answered(probe):
    header = probe.show().header
    request = probe.request(probe.scene.box(probe.place), header, append=True)
    futures = [probe.selector.call_async(request) for _ in range(100)]
    probe.until(lambda: all(future.done() for future in futures), "an answer to each")
    codes = [future.result().code for future in futures]
    assert codes.count(Answer.OK) == 16
    assert set(codes) <= {Answer.OK, Answer.TOO_MANY_TARGETS, Answer.BUSY}


def assert_refused(probe, response, code, target_id):
    """Refused for that reason; the earlier target is followed as before."""
    assert (response.code, response.success) == (code, False)
    assert response.message
    assert response.target_id == ""
    status = probe.show()
    assert (status.state, status.target_id) == (TargetStatus.TRACKING, target_id)
    target = probe.until(lambda: probe.target_of(status.header), "a box after the refusal")
    assert (target.id, target.results[0].hypothesis.class_id) == (target_id, "kept")
    assert probe.follows(target)


def answers(probe, requests):
    """Send (client, request) pairs at once; return the codes of all answers."""
    futures = [client.call_async(request) for client, request in requests]
    probe.until(lambda: all(future.done() for future in futures), "an answer to each")
    return [future.result().code for future in futures]


def test_five_hundred_requests_at_once_are_all_answered(probe):
    header = probe.show().header
    box = probe.scene.box(probe.place)
    flood = [probe.request(box, header, append=True) for _ in range(500)]
    codes = answers(probe, [(probe.selector, request) for request in flood])
    assert codes.count(Answer.OK) == 16
    assert set(codes) <= REFUSED_IN_A_FLOOD | {Answer.OK}
    assert probe.clear().success


def test_requests_of_many_clients_are_all_answered(probe):
    clients = [
        probe.node.create_client(SelectTarget, "select_target", qos_profile=QoSProfile(depth=100))
        for _ in range(12)
    ]
    for client in clients:
        probe.until(client.service_is_ready, "the service")
    probe.settle(1.0)  # until the service knows the clients; see Probe.meet
    header = probe.show().header
    request = probe.request(probe.scene.box(probe.place), header, append=True)
    codes = answers(probe, [(client, request) for client in clients for _ in range(5)])
    assert codes.count(Answer.OK) == 16
    assert set(codes) <= REFUSED_IN_A_FLOOD | {Answer.OK}
    for client in clients:
        probe.node.destroy_client(client)


def test_selections_from_a_clock_ahead_do_not_stop_tracking(probe):
    """Each replaces the one that waits, and images are tracked meanwhile."""
    probe.start_following()
    for _ in range(20):
        status = probe.show()
        ahead = Time.from_msg(status.header.stamp) + Duration(seconds=0.9)
        header = Header(stamp=ahead.to_msg(), frame_id="camera")
        request = probe.request(probe.scene.box(probe.place), header)
        probe.boxes.publish(Detection2D(header=header, bbox=request.bbox))
        assert status.state == TargetStatus.TRACKING
        assert probe.target_of(status.header)


def test_a_label_is_limited_and_texts_reach_the_log_escaped(probe):
    target_id = probe.start_following("kept")
    for label in ("x" * 1_000_000, "cup\n[FATAL] no cup", "\x1b[2J"):
        response = probe.select(BOX, probe.show().header, label)
        assert_refused(probe, response, Answer.INVALID_LABEL, target_id)
        assert len(response.message) < 400
        assert response.message.isprintable()
    header = Header(stamp=probe.show().header.stamp, frame_id="\n[FATAL] map" * 100_000)
    response = probe.select(BOX, header)
    assert_refused(probe, response, Answer.WRONG_FRAME_ID, target_id)
    logged = probe.until(
        lambda: [log.msg for log in probe.logs if "WRONG_FRAME_ID" in log.msg], "the refusal"
    )
    assert all(text.isprintable() and len(text) < 500 for text in logged)
