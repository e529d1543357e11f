# SPDX-License-Identifier: Apache-2.0
"""The camera component as ground stations meet it."""

from __future__ import annotations

import math

import pytest

from tracker_ros.following.selection import SelectionCode
from tracker_ros.following.target_state import TargetState
from tracker_ros.mavlink.commands import CommandResult
from tracker_ros.mavlink.dialect import TARGET_RELATIVE_ID, load_dialect

d = load_dialect()
nan = math.nan
IMAGE = d.MAVLINK_MSG_ID_CAMERA_TRACKING_IMAGE_STATUS
GEO = d.MAVLINK_MSG_ID_CAMERA_TRACKING_GEO_STATUS
ACCEPTED, TEMPORARILY, DENIED, UNSUPPORTED, FAILED, IN_PROGRESS = CommandResult
POINT, RECTANGLE = d.MAV_CMD_CAMERA_TRACK_POINT, d.MAV_CMD_CAMERA_TRACK_RECTANGLE
STOP = d.MAV_CMD_CAMERA_STOP_TRACKING


def image_status(bench):
    """What a station hears that asks for the status once."""
    assert bench.command(d.MAV_CMD_REQUEST_MESSAGE, IMAGE) == [ACCEPTED]
    (status,) = bench.first.take("CAMERA_TRACKING_IMAGE_STATUS")
    return status


def corners(status):
    return [status.rec_top_x, status.rec_top_y, status.rec_bottom_x, status.rec_bottom_y]


def test_all_peers_get_a_heartbeat_each_second(bench):
    bench.wait(5.0)
    for peer in (bench.first, bench.second):
        beats = peer.take("HEARTBEAT")
        assert len(beats) in (5, 6)
        assert {(b.type, b.autopilot) for b in beats} == {
            (d.MAV_TYPE_CAMERA, d.MAV_AUTOPILOT_INVALID)
        }
        assert beats[0].system_status == d.MAV_STATE_ACTIVE
        assert beats[-1].system_status == d.MAV_STATE_STANDBY, "no images have come"


def test_it_says_what_it_can_do(bench):
    for number, parameter in (
        (d.MAV_CMD_REQUEST_MESSAGE, d.MAVLINK_MSG_ID_CAMERA_INFORMATION),
        (d.MAV_CMD_REQUEST_CAMERA_INFORMATION, 1),
    ):
        assert bench.command(number, parameter) == [ACCEPTED]
        (information,) = bench.first.take("CAMERA_INFORMATION")
        assert information.flags == (
            d.CAMERA_CAP_FLAGS_HAS_TRACKING_POINT | d.CAMERA_CAP_FLAGS_HAS_TRACKING_RECTANGLE
        )
        assert (information.resolution_h, information.resolution_v) == (640, 480)
        assert bytes(information.vendor_name).rstrip(b"\0") == b"tracker_ros"
        assert math.isnan(information.focal_length)
    assert bench.second.received == []


def test_geo_status_is_offered_where_it_is_set_up(make_bench):
    bench = make_bench(geo_status=True)
    bench.command(d.MAV_CMD_REQUEST_MESSAGE, d.MAVLINK_MSG_ID_CAMERA_INFORMATION)
    (information,) = bench.first.take("CAMERA_INFORMATION")
    assert information.flags & d.CAMERA_CAP_FLAGS_HAS_TRACKING_GEO_STATUS
    assert bench.command(d.MAV_CMD_REQUEST_MESSAGE, GEO) == [TEMPORARILY], "nothing is known yet"
    assert bench.command(d.MAV_CMD_SET_MESSAGE_INTERVAL, GEO, 1e5) == [ACCEPTED]


def test_a_rectangle_is_followed(bench):
    assert bench.track(0.25, 0.25, 0.35, 0.5) == [ACCEPTED]
    assert bench.tracker.boxes == [pytest.approx((160, 120, 64, 120))]
    bench.see(box=(160.0, 120.0, 64.0, 120.0))
    status = image_status(bench)
    assert status.tracking_status == d.CAMERA_TRACKING_STATUS_FLAGS_ACTIVE
    assert status.tracking_mode == d.CAMERA_TRACKING_MODE_RECTANGLE
    assert status.target_data == d.CAMERA_TRACKING_TARGET_DATA_IN_STATUS
    assert corners(status) == pytest.approx([0.25, 0.25, 0.35, 0.5])
    assert [status.point_x, status.point_y, status.radius] == pytest.approx([nan] * 3, nan_ok=True)


def test_a_point_is_followed_and_told_of_as_a_point(bench):
    assert bench.command(POINT, 0.5, 0.5, 0.125) == [ACCEPTED]
    assert bench.tracker.boxes == [pytest.approx((240, 160, 160, 160))]
    bench.see(box=(240.0, 160.0, 160.0, 120.0), target_id="1")
    status = image_status(bench)
    assert status.tracking_mode == d.CAMERA_TRACKING_MODE_POINT
    assert [status.point_x, status.point_y, status.radius] == pytest.approx(
        [0.5, 220 / 480, 0.125]
    )
    assert corners(status) == pytest.approx([nan] * 4, nan_ok=True)
    bench.see(target_id="2")
    assert image_status(bench).tracking_mode == d.CAMERA_TRACKING_MODE_RECTANGLE


def test_a_point_without_radius_gets_a_box_inside_the_image(bench):
    for radius in (0.0, nan):
        assert bench.command(POINT, 0.0, 1.0, radius) == [ACCEPTED]
    assert bench.tracker.boxes == [pytest.approx((0, 448, 32, 32))] * 2


def test_the_box_is_cut_at_the_edge_of_the_image(bench):
    bench.see(box=(-64.0, 400.0, 128.0, 120.0))
    assert corners(image_status(bench)) == pytest.approx([0.0, 400 / 480, 0.1, 1.0])


@pytest.mark.parametrize(
    ("state", "flags", "mode"),
    [
        (TargetState.IDLE, d.CAMERA_TRACKING_STATUS_FLAGS_IDLE, d.CAMERA_TRACKING_MODE_NONE),
        (TargetState.LOADING, d.CAMERA_TRACKING_STATUS_FLAGS_IDLE, d.CAMERA_TRACKING_MODE_NONE),
        (TargetState.LOST, d.CAMERA_TRACKING_STATUS_FLAGS_ERROR, d.CAMERA_TRACKING_MODE_RECTANGLE),
    ],
)
def test_without_a_box_the_numbers_are_not_a_number(bench, state, flags, mode):
    bench.see(state, None)
    status = image_status(bench)
    assert (status.tracking_status, status.tracking_mode, status.target_data) == (flags, mode, 0)
    assert corners(status) == pytest.approx([nan] * 4, nan_ok=True)


def test_an_uncertain_box_is_shown(bench):
    bench.see(TargetState.UNCERTAIN)
    status = image_status(bench)
    assert status.tracking_status == d.CAMERA_TRACKING_STATUS_FLAGS_ACTIVE
    assert status.rec_top_x == 0.25


def test_without_images_the_status_is_an_error(bench):
    bench.see()
    bench.wait(1.5)
    status = image_status(bench)
    assert status.tracking_status == d.CAMERA_TRACKING_STATUS_FLAGS_ERROR
    assert math.isnan(status.rec_top_x)


@pytest.mark.parametrize(
    ("number", "params"),
    [
        (RECTANGLE, (0.5, 0.2, 0.4, 0.6)),
        (RECTANGLE, (0.2, 0.6, 0.4, 0.6)),
        (RECTANGLE, (-0.1, 0.2, 0.4, 0.6)),
        (RECTANGLE, (0.1, 0.2, 0.4, 1.5)),
        (RECTANGLE, (nan, 0.2, 0.4, 0.6)),
        (RECTANGLE, (0.1, 0.2, 0.4, math.inf)),
        (RECTANGLE, (0.1, 0.2, 0.4, 0.6, 3)),
        (RECTANGLE, (0.1, 0.2, 0.4, 0.6, 101)),
        (POINT, (1.5, 0.5, 0.1)),
        (POINT, (nan, 0.5, 0.1)),
        (POINT, (0.5, 0.5, -0.1)),
        (POINT, (0.5, 0.5, 0.1, 6)),
        (STOP, (4,)),
    ],
)
def test_what_cannot_be_tracked_is_denied_and_the_track_goes_on(bench, number, params):
    bench.see()
    assert bench.command(number, *params) == [DENIED]
    assert bench.tracker.boxes == [] and bench.tracker.clears == 0
    assert len(bench.complaints) == 1
    assert image_status(bench).tracking_status == d.CAMERA_TRACKING_STATUS_FLAGS_ACTIVE


@pytest.mark.parametrize("camera", [0, 100, nan])
def test_the_target_camera_may_be_named_or_left_open(bench, camera):
    assert bench.track(0.1, 0.2, 0.4, 0.6, camera) == [ACCEPTED]


def test_before_the_first_image_there_is_nothing_to_track(make_bench):
    bench = make_bench()
    assert bench.track() == [TEMPORARILY]
    assert bench.tracker.boxes == []


@pytest.mark.parametrize(
    ("code", "result"),
    [
        (SelectionCode.LOADING, TEMPORARILY),
        (SelectionCode.NOT_ACTIVE, TEMPORARILY),
        (SelectionCode.NO_IMAGE, TEMPORARILY),
        (SelectionCode.BUSY, TEMPORARILY),
        (SelectionCode.STALE_STAMP, TEMPORARILY),
        (SelectionCode.INVALID_BOX, DENIED),
        (SelectionCode.OUTSIDE_IMAGE, DENIED),
        (SelectionCode.MODEL_FAILED, FAILED),
        (SelectionCode.PAUSED, FAILED),
    ],
)
def test_a_refusal_of_the_tracker_is_its_result(bench, code, result):
    bench.tracker.code = code
    assert bench.track() == [result]


def test_tracking_is_stopped(bench):
    assert bench.command(STOP) == [ACCEPTED]
    assert bench.tracker.clears == 1


def test_commands_may_come_as_command_int(bench):
    bench.hear(
        d.MAVLink_command_int_message(1, 100, 0, RECTANGLE, 0, 0, 0.25, 0.25, 0.5, 0.5, 0, 0, 0.0)
    )
    assert [ack.result for ack in bench.first.take("COMMAND_ACK")] == [ACCEPTED]
    assert bench.tracker.boxes == [pytest.approx((160, 120, 160, 120))]


def test_an_acknowledgement_goes_to_who_asked(bench):
    bench.command(STOP, peer=bench.second, system=252, component=7)
    assert bench.first.received == []
    bench.command(STOP, 4, system=252, component=7, sequence=9)
    bench.hear(d.MAVLink_command_long_message(1, 100, 9999, 0, *[0.0] * 7), system=250)
    (ack,) = bench.first.take("COMMAND_ACK")
    assert (ack.target_system, ack.target_component, ack.result) == (250, 190, UNSUPPORTED)


@pytest.mark.parametrize("target", [(1, 101), (1, 1), (2, 100), (7, 0)])
def test_commands_for_others_pass_by(bench, target):
    assert bench.track(target=target) == []
    assert bench.command(9999, target=target) == []
    assert bench.tracker.boxes == [] and bench.complaints == []


def test_all_cameras_hear_a_broadcast_but_only_those_concerned_answer(bench):
    assert bench.track(target=(1, 0)) == [ACCEPTED]
    assert bench.track(target=(0, 0), sequence=50) == [ACCEPTED]
    attitude = d.MAVLINK_MSG_ID_ATTITUDE
    assert bench.command(9999, target=(1, 0)) == []
    assert bench.command(d.MAV_CMD_REQUEST_MESSAGE, attitude, target=(1, 0)) == []
    assert bench.command(d.MAV_CMD_SET_MESSAGE_INTERVAL, attitude, 1e5, target=(1, 0)) == []
    bench.wait(1.0)
    assert bench.first.take("COMMAND_ACK") == []


def test_what_is_not_a_command_of_a_camera_is_unsupported(bench):
    assert bench.command(d.MAV_CMD_NAV_TAKEOFF) == [UNSUPPORTED]
    assert bench.command(d.MAV_CMD_REQUEST_MESSAGE, d.MAVLINK_MSG_ID_ATTITUDE) == [DENIED]
    assert bench.command(d.MAV_CMD_REQUEST_MESSAGE, nan) == [DENIED]
    assert bench.command(d.MAV_CMD_REQUEST_MESSAGE, GEO) == [DENIED], "not set up"


def rate(peer, kind="CAMERA_TRACKING_IMAGE_STATUS"):
    """Messages of a kind since the last call."""
    return len(peer.take(kind))


def film(bench, seconds, fps=30):
    """Images come for a while."""
    for _ in range(round(seconds * fps)):
        bench.now += 1 / fps
        bench.see()
        bench.camera.tick(bench.now)


def test_each_station_has_rates_of_its_own(bench):
    interval = d.MAV_CMD_SET_MESSAGE_INTERVAL
    assert bench.command(interval, IMAGE, 200_000) == [ACCEPTED]
    assert bench.command(interval, IMAGE, 0, peer=bench.second) == [ACCEPTED]
    film(bench, 4.0)
    assert rate(bench.first) == pytest.approx(20, abs=1)
    assert rate(bench.second) == pytest.approx(40, abs=1), "the default is 10 Hz"
    assert bench.command(d.MAV_CMD_GET_MESSAGE_INTERVAL, IMAGE) == [ACCEPTED]
    (told,) = bench.first.take("MESSAGE_INTERVAL")
    assert (told.message_id, told.interval_us) == (IMAGE, 200_000)
    assert bench.command(interval, IMAGE, -1) == [ACCEPTED]
    film(bench, 1.0)
    assert rate(bench.first) == 0 and rate(bench.second) > 5
    bench.command(d.MAV_CMD_GET_MESSAGE_INTERVAL, IMAGE)
    assert bench.first.take("MESSAGE_INTERVAL")[0].interval_us == -1


def test_stations_behind_one_address_do_not_stop_each_other(bench):
    interval = d.MAV_CMD_SET_MESSAGE_INTERVAL
    bench.command(interval, IMAGE, 500_000, system=255)
    bench.command(interval, IMAGE, 100_000, system=254)
    film(bench, 2.0)
    assert rate(bench.first) == pytest.approx(20, abs=1)
    bench.command(interval, IMAGE, -1, system=254)
    film(bench, 2.0)
    assert rate(bench.first) == pytest.approx(4, abs=1)


def test_a_stream_goes_on_without_images(bench):
    bench.command(d.MAV_CMD_SET_MESSAGE_INTERVAL, IMAGE, 250_000)
    bench.first.take("CAMERA_TRACKING_IMAGE_STATUS")
    bench.wait(4.0)
    assert rate(bench.first) >= 12


@pytest.mark.parametrize(
    "params", [(IMAGE, nan), (IMAGE, -2), (IMAGE, 1e18), (0, 1e6), (30, 1e6), (GEO, 1e6), (nan, 1)]
)
def test_impossible_intervals_are_denied(bench, params):
    assert bench.command(d.MAV_CMD_SET_MESSAGE_INTERVAL, *params) == [DENIED]
    film(bench, 1.0)
    assert {m.get_type() for m in bench.first.received} <= {"HEARTBEAT"}


def test_a_peer_that_has_left_is_sent_nothing(bench):
    bench.command(d.MAV_CMD_SET_MESSAGE_INTERVAL, IMAGE, 100_000)
    bench.camera.forget(bench.first)
    film(bench, 1.0)
    assert rate(bench.first) == 0


def test_the_position_for_the_autopilot_is_asked_for_by_number(make_bench):
    bench = make_bench(target_relative=True)
    assert bench.command(d.MAV_CMD_SET_MESSAGE_INTERVAL, TARGET_RELATIVE_ID, 1e5) == [ACCEPTED]
    film(bench, 1.0)
    assert rate(bench.first, "TARGET_RELATIVE") == 0, "there is no position"
