# SPDX-License-Identifier: Apache-2.0
"""The ``mavlink_bridge`` node between a tracker and ground stations that use pymavlink."""

from __future__ import annotations

import math
import random
import sys

import numpy as np
import pytest
from geometry_msgs.msg import Vector3
from graph_probe import latched
from sensor_msgs.msg import CameraInfo, CompressedImage
from std_msgs.msg import Header
from vision_msgs.msg import Detection2D

from tools.harness.ground_station import BadLink, GroundStation, free_port
from tools.harness.program import Program
from tracker_interfaces.msg import TargetDirection, TargetStatus
from tracker_interfaces.srv import SelectTarget
from tracker_ros.geometry import iou
from tracker_ros.mavlink.dialect import TARGET_RELATIVE_ID, load_dialect
from tracker_ros.nodes.messages import compressed_from_array

pytestmark = pytest.mark.ros
d = load_dialect()
RECTANGLE, POINT = d.MAV_CMD_CAMERA_TRACK_RECTANGLE, d.MAV_CMD_CAMERA_TRACK_POINT
STOP, INTERVAL = d.MAV_CMD_CAMERA_STOP_TRACKING, d.MAV_CMD_SET_MESSAGE_INTERVAL
REQUEST = d.MAV_CMD_REQUEST_MESSAGE
IMAGE = d.MAVLINK_MSG_ID_CAMERA_TRACKING_IMAGE_STATUS
GEO = d.MAVLINK_MSG_ID_CAMERA_TRACKING_GEO_STATUS
ACCEPTED, TEMPORARILY, DENIED, UNSUPPORTED = range(4)


def start(folder, port, namespace, *parameters):
    """The bridge as a process of its own."""
    arguments = [f"connections:=udpin:127.0.0.1:{port}", *parameters]
    return Program(
        [sys.executable, "-m", "tracker_ros.nodes.start", "mavlink_bridge", "--ros-args"]
        + ["-r", f"__ns:={namespace}"]
        + [word for text in arguments for word in ("-p", text)],
        folder / "bridge.log",
    )


@pytest.fixture(scope="module")
def bridge(tmp_path_factory):
    """A bridge beside the shared tracker, and its port."""
    port = free_port()
    with start(tmp_path_factory.mktemp("bridge"), port, "/shared") as program:
        program.port = port
        yield program
    assert program.status == 0
    assert "Traceback" not in program.output


@pytest.fixture
def make_station(bridge, probe):
    """Makes ground stations; the camera goes on while they wait."""
    stations = []

    def make(port=None, **options):
        stations.append(GroundStation(port or bridge.port, busy=probe.show, **options))
        return stations[-1]

    yield make
    for station in stations:
        station.close()


def corners(probe):
    """The disc in the next image, left top right bottom from 0 to 1."""
    x, y, w, h = probe.scene.box(probe.place)
    return (
        x / probe.scene.width,
        y / probe.scene.height,
        (x + w) / probe.scene.width,
        (y + h) / probe.scene.height,
    )


def is_on_disc(probe, status):
    """Whether a rectangle is where the disc was a few images ago."""
    width, height = probe.scene.width, probe.scene.height
    left, top = status.rec_top_x * width, status.rec_top_y * height
    right, bottom = status.rec_bottom_x * width, status.rec_bottom_y * height
    box = (left, top, right - left, bottom - top)
    return any(iou(box, probe.scene.box(probe.place - i)) > 0.5 for i in range(30))


def connect(station):
    """Do what a station does when it hears a camera. Returns what the camera can do."""
    beat = station.until("HEARTBEAT")
    assert (beat.get_srcSystem(), beat.get_srcComponent()) == (1, 100)
    assert beat.type == d.MAV_TYPE_CAMERA
    for _ in range(100):
        assert station.command(REQUEST, d.MAVLINK_MSG_ID_CAMERA_INFORMATION) == ACCEPTED
        information = station.until("CAMERA_INFORMATION")
        if information.resolution_h:
            return information
    raise AssertionError("the camera saw no image")


def test_a_ground_station_tracks_and_sees(make_station, probe, bridge):
    station, onlooker = make_station(), make_station(system=254)
    information = connect(station)
    assert information.flags & d.CAMERA_CAP_FLAGS_HAS_TRACKING_RECTANGLE
    assert (information.resolution_h, information.resolution_v) == (320, 240)
    assert station.command(RECTANGLE, *corners(probe)) == ACCEPTED
    assert station.command(INTERVAL, IMAGE, 50_000) == ACCEPTED
    assert onlooker.command(INTERVAL, IMAGE, 0) == ACCEPTED
    for each in (station, onlooker):
        status = each.until("CAMERA_TRACKING_IMAGE_STATUS", lambda s: s.tracking_mode == 2)
        assert status.tracking_status == d.CAMERA_TRACKING_STATUS_FLAGS_ACTIVE
        assert is_on_disc(probe, status)
        assert math.isnan(status.point_x)
    assert onlooker.command(STOP) == ACCEPTED
    for each in (station, onlooker):
        status = each.until("CAMERA_TRACKING_IMAGE_STATUS", lambda s: s.tracking_status == 0)
        assert math.isnan(status.rec_top_x)


def test_a_click_is_enough(make_station, probe):
    station = make_station()
    connect(station)
    left, top, right, bottom = corners(probe)
    assert station.command(POINT, (left + right) / 2, (top + bottom) / 2, 0.08) == ACCEPTED
    station.command(INTERVAL, IMAGE, 50_000)
    status = station.until("CAMERA_TRACKING_IMAGE_STATUS", lambda s: s.tracking_mode == 1)
    assert abs(status.point_x - (left + right) / 2) < 0.15
    assert math.isnan(status.rec_top_x)


def test_nonsense_is_refused_and_the_track_goes_on(make_station, probe, bridge):
    station = make_station()
    connect(station)
    assert station.command(RECTANGLE, *corners(probe)) == ACCEPTED
    target = probe.follow(2).id
    chance = random.Random(3)
    for params in ((0.5, 0.5, 0.2, 0.9), (math.nan, 0, 1, 1), (-1, 0, 1, 1), (0, 0, 1, 1, 5)):
        assert station.command(RECTANGLE, *params) == DENIED
    assert station.command(4242) == UNSUPPORTED
    assert station.command(REQUEST, 30) == DENIED
    for _ in range(50):
        station.send_bytes(bytes(chance.randrange(256) for _ in range(chance.randrange(1, 60))))
    for length in (1, 5, 11, 40):
        station.send_bytes(bytes([253, 200, 0, 0]) + bytes(length))
    station.link.mav.command_long_send(1, 77, RECTANGLE, 0, 0, 0, 0.5, 0.5, 0, 0, 0)
    station.link.mav.command_long_send(9, 100, RECTANGLE, 0, 0, 0, 0.5, 0.5, 0, 0, 0)
    assert station.command(RECTANGLE, 0.0, 0.0, 1e-6, 1e-6) == DENIED
    assert probe.follow(2).id == target
    assert bridge.output.count("damaged packets") <= 3, "one line in ten seconds"
    assert "cannot be tracked" in bridge.output


def test_commands_may_come_in_mavlink_1_and_a_part_of_one_is_none(make_station, probe, bridge):
    station = make_station()
    connect(station)
    encoder = d.MAVLink(None, srcSystem=255, srcComponent=190)
    encoder.seq = 100

    def packet(box, target=(1, 100), old=False):
        message = d.MAVLink_command_long_message(*target, RECTANGLE, 0, *box, 0.0, 0.0, 0.0)
        encoder.seq += 1
        return message.pack(encoder, force_mavlink1=old)

    station.send_bytes(packet(corners(probe), old=True))
    ack = station.until("COMMAND_ACK", lambda ack: ack.command == RECTANGLE)
    assert ack.result == ACCEPTED
    target = probe.follow(2).id
    for old in (False, True):
        data = packet((0.6, 0.6, 0.9, 0.9), old=old)
        for end in (1, 6, len(data) // 2, len(data) - 1):
            station.send_bytes(data[:end])
        station.send_bytes(data[len(data) // 2 :])  # not even right after its first half
        station.send_bytes(bytes([data[0], *data[1:-3], data[-3] ^ 1, *data[-2:]]))
        for other in ((1, 101), (2, 100)):
            station.send_bytes(packet((0.6, 0.6, 0.9, 0.9), other, old))
    assert station.command(REQUEST, d.MAVLINK_MSG_ID_CAMERA_INFORMATION) == ACCEPTED
    assert probe.follow(2).id == target
    assert "Traceback" not in bridge.output


def test_over_a_bad_link_no_command_counts_twice(make_station, probe, bridge):
    link = BadLink(bridge.port)
    try:
        station = make_station(link.port, again_s=0.3)
        for _ in range(10):
            station.beat()
        connect(station)
        assert station.command(RECTANGLE, *corners(probe)) == ACCEPTED
        first = int(probe.follow(2).id)
        for _ in range(5):
            probe.show()
            assert station.command(RECTANGLE, *corners(probe)) == ACCEPTED
        # Not always 5: a late acknowledgement of one command may be taken for that of the next.
        assert first < int(probe.follow(2).id) <= first + 5
        assert station.command(INTERVAL, IMAGE, 50_000) == ACCEPTED
        station.until("CAMERA_TRACKING_IMAGE_STATUS", lambda s: s.tracking_status == 1)
        assert station.command(STOP) == ACCEPTED
        assert min(link.lost, link.doubled, link.damaged, link.delayed) > 0
    finally:
        link.close()


class Robot:
    """Plays tracker and autopilot for a bridge in namespace /bridged."""

    def __init__(self, probe, station):
        self.probe, self.station = probe, station
        node = probe.node
        self.requests = []
        self.infos = node.create_publisher(CameraInfo, "camera_info", 1)
        self.statuses = node.create_publisher(TargetStatus, "target_status", latched(1))
        self.targets = node.create_publisher(Detection2D, "target", 1)
        self.directions = node.create_publisher(TargetDirection, "target_direction", 1)

    def offer_selection(self):
        """Have a service that notes its requests."""

        def answer(request, response):
            self.requests.append(request)
            response.success, response.target_id = True, "1"
            return response

        return self.probe.node.create_service(SelectTarget, "select_target", answer)

    def report(self, seconds):
        """Report on an image of so many seconds after the first. Returns its header."""
        header = Header(frame_id="camera")
        header.stamp.sec, header.stamp.nanosec = divmod(round(1e12 + seconds * 1e9), 10**9)
        self.infos.publish(CameraInfo(header=header, width=640, height=480))
        self.statuses.publish(TargetStatus(header=header, state=TargetStatus.IDLE))
        return header


@pytest.fixture
def robot(tmp_path, make_probe):
    port = free_port()
    extra = ["geo_status:=true", "target_relative:=true", "video_delay:=0.5"]
    with start(tmp_path, port, "/bridged", *extra) as program:
        probe = make_probe("/bridged")
        station = GroundStation(
            port, busy=lambda: probe.until(lambda: False, "", 0.02, fail=False)
        )
        yield Robot(probe, station)
        station.close()
    assert program.status == 0
    assert "Traceback" not in program.output


def test_a_target_is_selected_on_the_image_that_was_seen(robot):
    station, probe = robot.station, robot.probe
    probe.until(lambda: robot.statuses.get_subscription_count() > 0, "the bridge")
    robot.report(0.0)
    station.until("HEARTBEAT", lambda beat: beat.system_status == d.MAV_STATE_ACTIVE)
    assert station.command(RECTANGLE, 0.1, 0.1, 0.2, 0.2) == TEMPORARILY, "there is no tracker"
    service = robot.offer_selection()
    for _ in range(200):
        robot.report(20.0)
        if station.command(RECTANGLE, 0.1, 0.2, 0.3, 0.4) == ACCEPTED:
            break
    (request,) = robot.requests
    assert request.header.frame_id == "camera"
    stamp = request.header.stamp.sec + request.header.stamp.nanosec / 1e9
    assert 1019.5 - 0.001 <= stamp <= 1020.0
    assert request.bbox.center.position.x == pytest.approx(0.2 * 640)
    assert (request.bbox.size_x, request.bbox.size_y) == pytest.approx((128, 96))
    probe.node.destroy_service(service)


def test_the_size_of_compressed_images_is_seen(tmp_path, make_probe):
    port, probe = free_port(), make_probe("/jpegs")
    jpegs = probe.node.create_publisher(CompressedImage, "image/compressed", 1)
    statuses = probe.node.create_publisher(TargetStatus, "target_status", latched(1))
    pixels = np.zeros((90, 160, 3), np.uint8)

    def show():
        jpegs.publish(CompressedImage(header=probe.header(), format="jpeg"))
        jpegs.publish(compressed_from_array(pixels, probe.header()))
        statuses.publish(TargetStatus(header=probe.header(), state=TargetStatus.IDLE))
        probe.until(lambda: False, "", 0.02, fail=False)

    with start(tmp_path, port, "/jpegs", "image_transport:=compressed"):
        station = GroundStation(port, busy=show)
        information = connect(station)
        station.close()
    assert (information.resolution_h, information.resolution_v) == (160, 90)


def test_map_and_autopilot_are_told_where_the_target_is(robot):
    station, probe = robot.station, robot.probe
    probe.until(lambda: robot.directions.get_subscription_count() > 0, "the bridge")
    autopilot = GroundStation(station.link.destination_addr[1], system=1, busy=station.busy)
    rest = station.busy
    autopilot.link.mav.srcComponent = 1

    def tell():
        header = probe.header()
        robot.directions.publish(
            TargetDirection(
                header=header,
                target_id="7",
                bearing=Vector3(x=0.6, y=0.0, z=0.8),
                angle_variance=1e-6,
                distance=50.0,
                distance_variance=0.25,
            )
        )
        robot.report(0.0)
        autopilot.listen()
        station.listen()
        mav = autopilot.link.mav
        mav.heartbeat_send(d.MAV_TYPE_QUADROTOR, d.MAV_AUTOPILOT_PX4, 0, 0, d.MAV_STATE_ACTIVE)
        mav.attitude_send(0, 0.0, 0.0, math.pi, 0, 0, 0)
        mav.global_position_int_send(0, 470000000, 80000000, 500_000, 0, 0, 0, 0, 0)
        rest()

    for each in (autopilot, station):
        each.busy = tell
    relative = autopilot.until("TARGET_RELATIVE", lambda m: m.q_sensor[3] != 0)
    assert (relative.x, relative.y, relative.z) == pytest.approx((40.0, 30.0, 0.0), abs=1e-4)
    assert relative.pos_std[0] == pytest.approx(math.hypot(0.8 * 0.5, 0.6 * 0.05), rel=1e-3)
    assert relative.id == 7
    assert station.command(INTERVAL, GEO, 100_000) == ACCEPTED
    status = station.until("CAMERA_TRACKING_GEO_STATUS")
    assert status.dist == pytest.approx(50.0)
    assert (status.lat - 470000000) / 1e7 * 111_170 == pytest.approx(-40.0, abs=0.5)
    assert status.lon < 80000000, "right of a vehicle that flies south is west"
    assert station.command(INTERVAL, TARGET_RELATIVE_ID, 100_000) == ACCEPTED
    autopilot.close()
