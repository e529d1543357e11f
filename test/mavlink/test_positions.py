# SPDX-License-Identifier: Apache-2.0
"""Where the target is: on the earth for ground stations, from the vehicle for autopilots."""

from __future__ import annotations

import math
import struct

import numpy as np
import pytest

from tracker_ros.following.target_state import TargetState
from tracker_ros.mavlink.dialect import TARGET_RELATIVE_ID, load_dialect
from tracker_ros.mavlink.tracking_messages import TargetPosition
from tracker_ros.mavlink.vehicle import (
    GeoPosition,
    VehicleState,
    moved,
    quaternion_of_angles,
    rotation_of_angles,
    rotation_of_quaternion,
)

d = load_dialect()
GEO = d.MAVLINK_MSG_ID_CAMERA_TRACKING_GEO_STATUS
HOME = GeoPosition(47.3977, 8.5456, 488.0)


def cartesian(position):
    """Earth-centred coordinates by the textbook formula (WGS84), metres."""
    a, e2 = 6378137.0, 6.69437999014e-3
    lat, lon = math.radians(position.latitude), math.radians(position.longitude)
    n = a / math.sqrt(1 - e2 * math.sin(lat) ** 2)
    return np.array(
        [
            (n + position.altitude) * math.cos(lat) * math.cos(lon),
            (n + position.altitude) * math.cos(lat) * math.sin(lon),
            (n * (1 - e2) + position.altitude) * math.sin(lat),
        ]
    )


def north_east_down(position):
    """(3, 3): the axes at a position, in earth-centred coordinates, as rows."""
    lat, lon = math.radians(position.latitude), math.radians(position.longitude)
    return np.array(
        [
            [-math.sin(lat) * math.cos(lon), -math.sin(lat) * math.sin(lon), math.cos(lat)],
            [-math.sin(lon), math.cos(lon), 0.0],
            [-math.cos(lat) * math.cos(lon), -math.cos(lat) * math.sin(lon), -math.sin(lat)],
        ]
    )


@pytest.mark.parametrize("offset", [(300, -200, 40), (-800, 500, -60), (0, 1000, 0), (0, 0, 25)])
@pytest.mark.parametrize("latitude", [47.4, -33.9, 0.0, 64.1])
def test_an_offset_on_the_earth_is_right_to_two_decimetres(latitude, offset):
    start = GeoPosition(latitude, 8.5, 400.0)
    there = moved(start, np.array(offset, float))
    found = north_east_down(start) @ (cartesian(there) - cartesian(start))
    # In a kilometre the ground curves down by 8 cm, and parallels curve by 16 cm at 64 degrees.
    assert found == pytest.approx(offset, abs=0.2)


def test_angles_turn_yaw_first():
    turn = rotation_of_angles(0.0, math.radians(-30), math.radians(90))
    forward = turn @ [1.0, 0.0, 0.0]
    assert forward == pytest.approx([0.0, math.cos(math.radians(30)), 0.5], abs=1e-9)
    right = rotation_of_angles(math.radians(90), 0.0, 0.0) @ [0.0, 1.0, 0.0]
    assert right == pytest.approx([0.0, 0.0, 1.0], abs=1e-9)


def tell(bench, roll=0.0, pitch=0.0, yaw=0.0, velocity=(0.0, 0.0, 0.0)):
    """The autopilot tells where the vehicle is."""
    sender = {"system": 1, "component": 1, "peer": bench.second}
    bench.hear(
        d.MAVLink_heartbeat_message(
            d.MAV_TYPE_QUADROTOR, d.MAV_AUTOPILOT_PX4, 0, 0, d.MAV_STATE_ACTIVE, 3
        ),
        **sender,
    )
    w, x, y, z = quaternion_of_angles(roll, pitch, yaw)
    bench.hear(d.MAVLink_attitude_quaternion_message(0, w, x, y, z, 0, 0, 0), **sender)
    vx, vy, vz = (round(v * 100) for v in velocity)
    lat, lon = round(HOME.latitude * 1e7), round(HOME.longitude * 1e7)
    bench.hear(
        d.MAVLink_global_position_int_message(0, lat, lon, 488_000, 0, vx, vy, vz, 0), **sender
    )


def locate(bench, position, age=0.0, std=(0.3, 0.2, 1.0)):
    """The tracker finds the target at a position in the camera's optical frame."""
    covariance = np.diag(np.square(std))
    bench.camera.locate(
        TargetPosition(
            1_700_000_000_000_000, 259, np.array(position), covariance, bench.now - age
        ),
        bench.now,
    )


def geo_status(bench):
    bench.command(d.MAV_CMD_REQUEST_MESSAGE, GEO)
    (status,) = bench.first.take("CAMERA_TRACKING_GEO_STATUS")
    return status


def offset_of(status):
    """North, east, down of the target from home."""
    there = GeoPosition(status.lat / 1e7, status.lon / 1e7, status.alt)
    return north_east_down(HOME) @ (cartesian(there) - cartesian(HOME))


def test_the_target_is_put_on_the_map(make_bench):
    bench = make_bench(geo_status=True)
    bench.see()
    tell(bench, yaw=math.radians(90))
    locate(bench, (3.0, 10.0, 100.0))  # 3 m to the right, 10 m below, 100 m ahead: east
    status = geo_status(bench)
    assert offset_of(status) == pytest.approx([-3.0, 100.0, 10.0], abs=0.05)
    assert status.dist == pytest.approx(math.sqrt(9 + 100 + 10000))
    assert status.h_acc == pytest.approx(math.hypot(0.3, 1.0), rel=1e-4)
    assert status.v_acc == pytest.approx(0.2, rel=1e-4)
    assert status.tracking_status == d.CAMERA_TRACKING_STATUS_FLAGS_ACTIVE
    unknown = [
        status.vel_n,
        status.vel_e,
        status.vel_d,
        status.vel_acc,
        status.hdg,
        status.hdg_acc,
    ]
    assert all(map(math.isnan, unknown))


def test_a_camera_that_looks_down_is_turned_into_the_body(make_bench):
    down = rotation_of_angles(0.0, math.radians(-90), 0.0)
    bench = make_bench(geo_status=True, mount=down)
    bench.see()
    tell(bench)
    locate(bench, (2.0, 1.0, 50.0))
    # The top of the image is ahead, so what is below the centre lies behind.
    assert offset_of(geo_status(bench)) == pytest.approx([-1.0, 2.0, 50.0], abs=0.05)


def test_the_attitude_is_that_of_the_image(make_bench):
    bench = make_bench(geo_status=True)
    bench.see()
    tell(bench, yaw=0.0)
    bench.now += 0.2
    tell(bench, yaw=math.radians(40))
    locate(bench, (0.0, 0.0, 50.0), age=0.2)
    assert offset_of(geo_status(bench)) == pytest.approx([50.0, 0.0, 0.0], abs=0.05)


def test_the_position_moves_on_between_messages(make_bench):
    bench = make_bench(geo_status=True)
    tell(bench, velocity=(10.0, -5.0, 1.0))
    bench.now += 0.4
    bench.see()
    locate(bench, (0.0, 0.0, 50.0))
    assert offset_of(geo_status(bench)) == pytest.approx([54.0, -2.0, 0.4], abs=0.05)


def test_old_or_impossible_attitudes_are_not_used():
    vehicle = VehicleState()
    for wrong in ((0.0, 0.0, 0.0, 0.0), (math.nan, 0.0, 0.0, 1.0)):
        vehicle.set_attitude(10.0, wrong)
        assert vehicle.attitude_at(10.0) is None
    vehicle.set_attitude(10.0, (2.0, 0.0, 0.0, 0.0))
    assert vehicle.attitude_at(10.4) == (1.0, 0.0, 0.0, 0.0)
    assert vehicle.attitude_at(10.6) is None
    vehicle.set_position(10.0, HOME, (0.0, 0.0, 0.0))
    assert vehicle.position_at(13.0) is None


def test_without_the_autopilot_there_is_no_place_on_the_map(make_bench):
    bench = make_bench(geo_status=True)
    bench.see()
    locate(bench, (0.0, 0.0, 50.0))
    bench.command(d.MAV_CMD_REQUEST_MESSAGE, GEO)
    assert bench.first.take("CAMERA_TRACKING_GEO_STATUS") == []
    tell(bench)
    locate(bench, (0.0, 0.0, 50.0))
    assert geo_status(bench).dist == 50.0
    bench.now += 1.5
    bench.see(TargetState.LOST, None)
    assert bench.command(d.MAV_CMD_REQUEST_MESSAGE, GEO) == [1], "no stale position"


def test_other_systems_do_not_move_the_vehicle(make_bench):
    bench = make_bench(geo_status=True)
    bench.see()
    for system, component in ((2, 1), (1, 154), (255, 190)):
        bench.hear(
            d.MAVLink_attitude_message(0, 0, 0, 1.0, 0, 0, 0), system=system, component=component
        )
    locate(bench, (0.0, 0.0, 50.0))
    bench.command(d.MAV_CMD_REQUEST_MESSAGE, GEO)
    assert bench.first.take("CAMERA_TRACKING_GEO_STATUS") == []


def test_the_autopilot_is_sent_the_relative_position(make_bench):
    bench = make_bench(target_relative=True)
    locate(bench, (3.0, 10.0, 100.0))
    assert bench.second.received == [], "no autopilot has spoken yet"
    tell(bench, yaw=math.radians(90))
    bench.second.received.clear()
    locate(bench, (3.0, 10.0, 100.0))
    assert bench.first.received == []
    (message,) = bench.second.take("TARGET_RELATIVE")
    assert message.get_msgId() == TARGET_RELATIVE_ID == 511
    assert (message.timestamp, message.id, message.frame, message.type) == (
        1_700_000_000_000_000,
        259 % 256,
        1,
        3,
    )
    assert (message.x, message.y, message.z) == (100.0, 3.0, 10.0)
    assert message.pos_std == pytest.approx([1.0, 0.3, 0.2])
    assert math.isnan(message.yaw_std)
    assert message.q_target == pytest.approx([1.0, 0.0, 0.0, 0.0])
    north = rotation_of_quaternion(tuple(message.q_sensor)) @ [message.x, message.y, message.z]
    assert north == pytest.approx([-3.0, 100.0, 10.0], abs=1e-4)


def test_an_unknown_attitude_is_zero(make_bench):
    bench = make_bench(target_relative=True)
    bench.command(d.MAV_CMD_SET_MESSAGE_INTERVAL, TARGET_RELATIVE_ID, 100_000)
    locate(bench, (0.0, 0.0, 5.0))
    bench.see()
    (message,) = bench.first.take("TARGET_RELATIVE")
    assert list(message.q_sensor) == [0.0, 0.0, 0.0, 0.0]


def test_the_autopilot_is_asked_for_what_is_missing(make_bench):
    bench = make_bench(geo_status=True)
    bench.hear(
        d.MAVLink_heartbeat_message(2, 12, 0, 0, 4, 3), system=1, component=1, peer=bench.second
    )
    bench.wait(1.0)
    asked = bench.second.take("COMMAND_LONG")
    assert {(a.target_component, a.command) for a in asked} == {
        (1, d.MAV_CMD_SET_MESSAGE_INTERVAL)
    }
    assert [a.param1 for a in asked] == [
        d.MAVLINK_MSG_ID_ATTITUDE_QUATERNION,
        d.MAVLINK_MSG_ID_GLOBAL_POSITION_INT,
    ]
    assert bench.first.take("COMMAND_LONG") == []
    tell(bench)
    bench.wait(0.2)
    bench.second.take("COMMAND_LONG")
    for _ in range(20):
        tell(bench)
        bench.wait(0.4)
    assert bench.second.take("COMMAND_LONG") == []


def test_target_relative_is_as_mavlink_defines_it():
    message = d.mavlink_map[TARGET_RELATIVE_ID]
    checked = d.x25crc(b"TARGET_RELATIVE ")
    types = dict(zip(message.fieldnames, message.fieldtypes, strict=True))
    places = zip(message.ordered_fieldnames, message.array_lengths, strict=True)
    for name, length in places:
        checked.accumulate(f"{types[name]} {name} ".encode())
        if length:
            checked.accumulate(struct.pack("B", length))
    assert (checked.crc & 0xFF) ^ (checked.crc >> 8) == message.crc_extra
    assert message.unpacker.size == 71
    assert [message.ordered_fieldnames[i] for i in message.orders] == message.fieldnames
