# SPDX-License-Identifier: Apache-2.0
"""Where the target is: directions, poses and boxes ahead, through topics and real transforms."""

from __future__ import annotations

import gc
import math
import time
from functools import partial

import numpy as np
import pytest
import rclpy
import tf2_ros
from conftest import SpunNode
from foxglove_msgs.msg import ImageAnnotations
from geometry_msgs.msg import (
    PointStamped,
    PoseStamped,
    PoseWithCovarianceStamped,
    TransformStamped,
    TwistWithCovarianceStamped,
    Vector3Stamped,
)
from graph_probe import Probe, image_message
from rclpy.parameter import Parameter
from rclpy.time import Time
from sensor_msgs.msg import CameraInfo, Image
from tf2_msgs.msg import TFMessage
from vision_msgs.msg import Detection2D, Detection2DArray, Detection3DArray
from visualization_msgs.msg import Marker, MarkerArray

from tracker_interfaces.msg import (
    TargetDirection,
    TargetDirectionArray,
    TargetStatus,
    TargetVelocityArray,
)
from tracker_ros.nodes.messages import box_of, stamp_message, stamp_nanoseconds
from tracker_ros.nodes.spatial.inputs import FixedFrame
from tracker_ros.nodes.track import TrackNode
from tracker_ros.spatial.target_locator import TargetLocator

FOCAL, CX, CY = 300.0, 159.5, 119.5
NEAR, FAR = 2.0, 6.0
KINDS = {
    "target_bearing": Vector3Stamped,
    "target_direction": TargetDirection,
    "target_directions": TargetDirectionArray,
    "target_point": PointStamped,
    "target_pose": PoseWithCovarianceStamped,
    "target_pose_stamped": PoseStamped,
    "target_poses": Detection3DArray,
    "target_velocity": TwistWithCovarianceStamped,
    "target_velocities": TargetVelocityArray,
    "target_predicted": Detection2D,
    "targets_predicted": Detection2DArray,
}


class Rig:
    """A calibrated RGB-D camera before the probe's scene, and ears for what is said about it."""

    def __init__(self, probe: Probe) -> None:
        self.probe, node = probe, probe.node
        self.began = time.monotonic()
        self.info = node.create_publisher(CameraInfo, "camera_info", 1)
        self.depth = node.create_publisher(Image, "depth", 1)
        self.tf = node.create_publisher(TFMessage, "/tf", 10)
        self.heard: dict[str, list] = {topic: [] for topic in KINDS}
        self.ears = [probe.listen(kind, topic, self.heard[topic]) for topic, kind in KINDS.items()]
        self.calibration = calibration()
        self.ground: float | None = None
        self.depth_delay_ns = 0
        self.disc_depth = NEAR
        self.depth_encoding, self.depth_type = "16UC1", "<u2"
        self.size = (probe.scene.height, probe.scene.width)
        self.camera_pose: tuple[float, float, float] | None = None
        self.transform_lag_ns = 0
        probe.until(
            lambda: (
                all(probe.node.count_subscribers(p.topic_name) for p in (self.info, self.depth))
                and all(probe.node.count_publishers(e.topic_name) for e in self.ears)
            ),
            "the tracker's topics",
        )
        probe.settle(0.3)

    def close(self) -> None:
        for ear in self.ears:
            self.probe.node.destroy_subscription(ear)
        for publisher in (self.info, self.depth, self.tf):
            self.probe.node.destroy_publisher(publisher)

    def message(self, header) -> Image:
        """What the camera sends first: calibration, depth, its pose; then the picture."""
        self.calibration.header = header
        self.info.publish(self.calibration)
        if self.ground is not None:
            self.depth.publish(self.depth_image(header))
        if self.camera_pose is not None:
            self.tf.publish(TFMessage(transforms=[self.transform(header)]))
        self.probe.settle(0.02)
        return image_message(self.probe.scene.image(self.probe.place), header)

    def depth_image(self, header) -> Image:
        metres = np.full(self.size, self.ground)
        x, y, w, h = (int(v) for v in self.probe.scene.box(self.probe.place))
        metres[y : y + h, x : x + w] = self.disc_depth
        metres[::7] = 0.0
        values = (metres * 1000).astype(self.depth_type)
        message = (
            image_message(values, header, self.depth_encoding)
            if values.size
            else Image(encoding=self.depth_encoding)
        )
        message.header = type(header)(
            frame_id=header.frame_id,
            stamp=stamp_message(stamp_nanoseconds(header) + self.depth_delay_ns),
        )
        return message

    def transform(self, header) -> TransformStamped:
        """An optical frame that looks along the x axis of odom, from the camera's pose."""
        message = TransformStamped(header=header, child_frame_id=header.frame_id)
        stamp = stamp_message(stamp_nanoseconds(header) - self.transform_lag_ns)
        message.header = type(header)(stamp=stamp, frame_id="odom")
        move, turn = message.transform.translation, message.transform.rotation
        move.x, move.y, move.z = self.camera_pose
        turn.x, turn.y, turn.z, turn.w = -0.5, 0.5, -0.5, 0.5
        return message

    def show(self, topic: str, frames: int = 15):
        """Show frames until one is answered on a topic; that message, and the frame's header."""
        for _ in range(frames):
            header = self.probe.show(make=self.message).header
            answer = self.probe.until(partial(self.of, topic, header), "", 1.0, fail=False)
            if answer is not None:
                return answer, header
        return pytest.fail(
            f"no {topic} in {frames} frames; {[log.msg for log in self.probe.logs]}"
        )

    def of(self, topic: str, header):
        """The message of a frame, if it has come."""
        same = (m for m in reversed(self.heard[topic]) if m.header.stamp == header.stamp)
        return next(same, None)

    def silent(self, topics, frames: int = 4) -> None:
        """Show frames that the tracker answers, but not on these topics."""
        for topic in topics:
            self.heard[topic].clear()
        for _ in range(frames):
            assert self.probe.show(make=self.message).state == TargetStatus.TRACKING
        self.probe.settle(0.2)
        assert {topic: self.heard[topic] for topic in topics if self.heard[topic]} == {}

    def warned(self, word: str) -> None:
        """Expect a warning with a word in it, once in ten seconds; show frames until it comes."""
        for _ in range(60):
            if any(word in log.msg for log in self.probe.logs):
                break
            self.probe.settle(0.5)
            self.probe.show(make=self.message)
        periods = 1 + (time.monotonic() - self.began) // 10
        assert 1 <= sum(word in log.msg for log in self.probe.logs) <= periods


def calibration(focal: float = FOCAL, width: int = 320, height: int = 240) -> CameraInfo:
    k = [focal, 0.0, CX, 0.0, focal, CY, 0.0, 0.0, 1.0]
    return CameraInfo(width=width, height=height, k=k, d=[0.0] * 5, distortion_model="plumb_bob")


def direction_of(detection) -> np.ndarray:
    """The unit vector towards the centre of a box."""
    x, y, w, h = box_of(detection.bbox)
    ray = np.array([(x + w / 2 - 0.5 - CX) / FOCAL, (y + h / 2 - 0.5 - CY) / FOCAL, 1.0])
    return ray / np.linalg.norm(ray)


def vector(message) -> np.ndarray:
    return np.array([message.x, message.y, message.z])


@pytest.fixture
def rig(local):
    rig = Rig(local[1])
    rig.probe.start_following("disc")
    yield rig
    rig.close()


def test_a_direction_comes_from_the_calibration_alone(rig):
    direction, header = rig.show("target_direction")
    bearing = rig.probe.until(lambda: rig.of("target_bearing", header), "a bearing")
    truth = direction_of(rig.probe.until(lambda: rig.probe.target_of(header), "its box"))
    assert vector(bearing.vector) == pytest.approx(truth, abs=1e-6)
    assert bearing.header == header
    assert vector(direction.bearing) == pytest.approx(truth, abs=1e-6)
    assert direction.azimuth == pytest.approx(math.atan2(truth[0], truth[2]))
    assert direction.elevation == pytest.approx(math.asin(-truth[1]))
    assert (direction.label, direction.predicted_by) == ("disc", 0.0)
    assert math.isnan(direction.distance)
    assert math.isnan(direction.distance_rate)
    array = rig.probe.until(lambda: rig.of("target_directions", header), "the array")
    assert array.directions == [direction] or len(array.directions) == 1
    rig.silent(["target_pose", "target_point", "target_poses", "target_velocity"])
    assert rig.probe.targets[-1].results[0].pose.pose.position.z == 0.0


def test_depth_gives_the_pose_in_every_form(rig):
    rig.ground = FAR
    pose, header = rig.show("target_pose")
    target = rig.probe.until(lambda: rig.probe.target_of(header), "its box")
    truth = direction_of(target)
    truth = truth / truth[2] * NEAR
    assert vector(pose.pose.pose.position) == pytest.approx(truth, abs=0.01)
    assert pose.header == header
    covariance = np.array(pose.pose.covariance).reshape(6, 6)
    assert 0.01 < math.sqrt(covariance[2, 2]) < 0.1
    assert 0.0 < math.sqrt(covariance[0, 0]) < 0.05
    of = lambda topic: rig.probe.until(lambda: rig.of(topic, header), topic)  # noqa: E731
    assert vector(of("target_point").point) == pytest.approx(truth, abs=0.01)
    assert vector(of("target_pose_stamped").pose.position) == pytest.approx(truth, abs=0.01)
    assert of("target_direction").distance == pytest.approx(np.linalg.norm(truth), abs=0.01)
    (located,) = of("target_poses").detections
    assert (located.id, located.results[0].hypothesis.class_id) == (target.id, "disc")
    assert vector(located.results[0].pose.pose.position) == pytest.approx(truth, abs=0.01)
    assert located.bbox.size.x == pytest.approx(target.bbox.size_x / FOCAL * NEAR, rel=0.03)
    assert vector(target.results[0].pose.pose.position) == pytest.approx(truth, abs=0.01)
    velocity = of("target_velocity")
    assert np.linalg.norm(vector(velocity.twist.twist.linear)) < 5.0
    (array,) = of("target_velocities").velocities
    assert (array.target_id, array.label) == (target.id, "disc")
    assert (array.header, array.twist) == (velocity.header, velocity.twist)
    assert np.array(array.twist.covariance).reshape(6, 6)[0, 0] > 0.0


def test_each_target_has_its_place_in_the_arrays(rig):
    rig.ground = FAR
    header = rig.probe.show(make=rig.message).header
    x, y, w, h = rig.probe.scene.box(rig.probe.place)
    # A piece of the ground beside the disc: it stands still where the disc moves on.
    other = rig.probe.select((20.0, 160.0, w, h), header, "ground", append=True)
    assert other.code == other.OK, other.message
    for _ in range(6):
        rig.probe.show(make=rig.message)
    velocities, header = rig.show("target_velocities")
    poses = rig.probe.until(lambda: rig.of("target_poses", header), "poses")
    named = {velocity.target_id: velocity for velocity in velocities.velocities}
    depths = {d.id: d.results[0].pose.pose.position.z for d in poses.detections}
    assert list(named) == list(depths)
    assert [velocity.label for velocity in velocities.velocities] == ["disc", "ground"]
    assert depths[other.target_id] == pytest.approx(FAR, abs=0.05)
    first = rig.probe.until(lambda: rig.of("target_velocity", header), "the first one's")
    assert velocities.velocities[0].twist == first.twist
    assert named[other.target_id].twist != first.twist


def test_nothing_is_kept_of_targets_that_are_no_longer_followed(rig):
    def kept() -> int:
        gc.collect()
        return sum(type(thing) is TargetLocator for thing in gc.get_objects())

    rig.show("target_direction")
    before = kept()
    for _ in range(3):
        assert rig.probe.clear().success
        rig.probe.start_following()
        rig.show("target_direction")
    assert kept() == before > 0


def test_everything_is_silent_while_the_target_is_lost(rig):
    rig.ground = FAR
    assert rig.probe.set(lost_after=0.0) == [(True, "")]
    rig.show("target_pose")
    rig.probe.until(lambda: rig.probe.show(visible=False).state == TargetStatus.LOST, "loss")
    rig.probe.settle(0.2)
    for heard in rig.heard.values():
        heard.clear()
    hidden = rig.probe.scene.image
    for _ in range(4):
        make = lambda header: (  # noqa: E731
            rig.message(header),
            image_message(hidden(rig.probe.place, False), header),
        )[1]
        assert rig.probe.show(make=make).state == TargetStatus.LOST
    rig.probe.settle(0.2)
    assert [topic for topic, heard in rig.heard.items() if heard] == []


def test_a_known_size_gives_a_distance_but_no_pose_in_the_detection(rig):
    size = 0.5
    assert rig.probe.set(target_size_m=size) == [(True, "")]
    pose, header = rig.show("target_pose")
    target = rig.probe.until(lambda: rig.probe.target_of(header), "its box")
    side = max(target.bbox.size_x, target.bbox.size_y)
    assert vector(pose.pose.pose.position)[2] == pytest.approx(size * FOCAL / side, rel=0.05)
    assert target.results[0].pose.pose.position.z == 0.0


def test_predictions_carry_the_time_for_which_they_hold(rig):
    rig.ground = FAR
    assert rig.probe.set(predict=True) == [(True, "")]
    headers = []

    def shown():
        """One message of each kind that looks ahead; a slow machine may need several frames."""
        headers.append(rig.probe.show(make=rig.message).header)
        rig.probe.settle(0.1)
        stamps = [header.stamp for header in headers]
        return {
            topic: [m for m in rig.heard[topic] if m.header.stamp not in stamps][-1]
            for topic in (
                "target_predicted",
                "targets_predicted",
                "target_pose",
                "target_direction",
            )
            if any(m.header.stamp not in stamps for m in rig.heard[topic])
        }

    ahead = next(found for _ in range(20) if len(found := shown()) == 4)
    direction = ahead["target_direction"]
    assert 0.0 < direction.predicted_by <= 1.0
    seen_ns = stamp_nanoseconds(direction.header) - direction.predicted_by * 1e9
    assert min(abs(stamp_nanoseconds(header) - seen_ns) for header in headers) < 1000
    (box,) = ahead["targets_predicted"].detections
    assert ahead["target_predicted"].id == direction.target_id == box.id
    # The box itself stays where it was seen, with the stamp of its image.
    assert rig.probe.until(lambda: rig.probe.target_of(headers[-1]), "a box")


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        (CameraInfo(width=320, height=240), "not calibrated"),
        (calibration(math.nan), "not calibrated"),
        (calibration(-FOCAL), "not calibrated"),
        (calibration(0.004), "millimetres"),
        (calibration(width=640, height=480), "640x480"),
        (
            CameraInfo(
                width=320, height=240, k=calibration().k, d=[0.1], distortion_model="thin_prism"
            ),
            "thin_prism",
        ),
    ],
    ids=["zeros", "nan", "negative", "millimetres", "size", "model"],
)
def test_a_wrong_calibration_is_told_once_and_the_track_goes_on(rig, wrong, word):
    rig.ground, rig.calibration = FAR, wrong
    rig.silent(["target_bearing", "target_direction", "target_pose"])
    rig.warned(word)
    rig.calibration = calibration()
    rig.show("target_bearing")


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"depth_encoding": "rgb8"}, "rgb8"),
        ({"depth_encoding": ""}, "''"),
        ({"depth_encoding": "32FC1"}, "step is 640"),
        ({"depth_encoding": "32FC1", "depth_type": "<f4"}, "32FC1"),
        ({"size": (120, 160)}, "160x120"),
        ({"size": (0, 0)}, "0x0"),
        ({"depth_delay_ns": 100 * 10**9}, "depth_tolerance"),
    ],
    ids=["encoding", "none", "step", "millimetres", "size", "empty", "stamp"],
)
def test_a_wrong_depth_is_told_once_and_the_direction_goes_on(rig, wrong, word):
    rig.ground = FAR
    for name, value in wrong.items():
        setattr(rig, name, value)
    rig.silent(["target_pose"])
    rig.warned(word)
    rig.show("target_bearing")


def test_depth_without_a_single_measurement_gives_no_pose(rig):
    rig.ground = rig.disc_depth = 0.0
    rig.silent(["target_pose", "target_poses"])
    direction, _ = rig.show("target_direction")
    assert math.isnan(direction.distance)


@pytest.mark.parametrize("jump_s", [3600, -3600])
def test_after_a_leap_of_time_places_go_on(rig, jump_s):
    rig.ground = FAR
    rig.show("target_pose")
    header, now = rig.probe.header, rig.probe.node.get_clock().now().nanoseconds
    began_ns = now + jump_s * 10**9

    def leapt(stamp=None):
        passed = rig.probe.node.get_clock().now().nanoseconds - now
        return header(stamp_message(began_ns + passed))

    rig.probe.header = leapt
    try:
        for _ in range(3):
            rig.probe.show(make=rig.message)
        pose, _ = rig.show("target_pose")
        velocity, _ = rig.show("target_velocity")
    finally:
        rig.probe.header = header
    assert vector(pose.pose.pose.position)[2] == pytest.approx(NEAR, abs=0.01)
    assert abs(stamp_nanoseconds(pose.header) - began_ns) < 300 * 10**9
    assert np.linalg.norm(vector(velocity.twist.twist.linear)) < 5.0


@pytest.fixture(scope="module")
def moving(tiny_tracker):
    """The probe beside a tracker whose camera moves through odom."""
    overrides = [
        Parameter("fixed_frame", value="odom"),
        Parameter("target_frame_prefix", value="target_"),
        Parameter("annotations", value=True),
    ]
    spun = SpunNode(
        lambda: TrackNode(
            lambda p: tiny_tracker, namespace="moving", parameter_overrides=overrides
        )
    )
    probe = Probe("/moving")
    probe.connect()
    yield probe
    probe.close()
    spun.close()


def test_poses_are_in_the_fixed_frame_and_the_target_is_a_frame_itself(moving):
    probe = moving
    rig = Rig(probe)
    rig.ground, rig.camera_pose = FAR, (10.0, 20.0, 1.0)
    buffer = tf2_ros.Buffer()
    listener = tf2_ros.TransformListener(buffer, probe.node)
    name = f"target_{probe.start_following()}"
    try:
        pose, header = rig.show("target_pose")
        target = probe.until(lambda: probe.target_of(header), "its box")
        x, y, z = vector(target.results[0].pose.pose.position)
        assert z == pytest.approx(NEAR, abs=0.01)
        # The optical frame looks along x: right is -y, down is -z.
        truth = [10.0 + z, 20.0 - x, 1.0 - y]
        assert pose.header.frame_id == "odom"
        assert vector(pose.pose.pose.position) == pytest.approx(truth, abs=1e-6)
        when = Time.from_msg(header.stamp)
        probe.until(lambda: buffer.can_transform("odom", name, when), f"{name} on /tf")
        moved = buffer.lookup_transform("odom", name, when).transform.translation
        assert vector(moved) == pytest.approx(truth, abs=1e-6)

        # A camera that moves does not make a target move that stands still.
        for step in range(12):
            rig.camera_pose = (10.0 + 0.2 * step, 20.0, 1.0)
            rig.disc_depth = 4.4 - 0.2 * step
            velocity, _ = rig.show("target_velocity")
        assert abs(velocity.twist.twist.linear.x) < 1.0

        probe.logs.clear()
        rig.camera_pose = None
        probe.settle(0.3)
        rig.silent(["target_pose", "target_velocity"])
        rig.warned("odom")
        assert rig.of("target_bearing", probe.statuses[-1].header) is not None
    finally:
        listener.unregister()
        rig.close()


def test_a_late_transform_is_replaced_by_the_newest_for_a_tenth_of_a_second(moving):
    probe = moving
    rig = Rig(probe)
    rig.ground, rig.camera_pose = FAR, (10.0, 20.0, 1.0)
    probe.start_following()
    try:
        rig.show("target_pose")
        probe.settle(0.2)
        # The newest transform is always a little older than the image, as with a slow odometry.
        rig.transform_lag_ns, rig.camera_pose = 50_000_000, (11.0, 20.0, 1.0)
        probe.show(make=rig.message)
        rig.camera_pose = (12.0, 20.0, 1.0)
        pose, header = rig.show("target_pose")
        target = probe.until(lambda: probe.target_of(header), "its box")
        depth = target.results[0].pose.pose.position.z
        assert pose.header.stamp == header.stamp
        assert pose.pose.pose.position.x == pytest.approx(12.0 + depth, abs=1e-6)

        # Far too old: no pose, but box, depth and direction of the same image.
        probe.logs.clear()
        rig.transform_lag_ns, rig.camera_pose = 400_000_000, (13.0, 20.0, 1.0)
        probe.settle(0.2)
        rig.silent(["target_pose", "target_poses", "target_velocity"])
        direction, header = rig.show("target_direction")
        target = probe.until(lambda: probe.target_of(header), "its box")
        assert target.results[0].pose.pose.position.z == pytest.approx(NEAR, abs=0.01)
        assert direction.distance == pytest.approx(NEAR, abs=0.3)
        rig.warned("odom")

        rig.transform_lag_ns, rig.camera_pose = 0, (14.0, 20.0, 1.0)
        pose, _ = rig.show("target_pose")
        assert pose.pose.pose.position.x == pytest.approx(14.0 + NEAR, abs=0.02)
    finally:
        rig.close()


def test_transforms_from_before_a_jump_back_do_not_hide_later_ones():
    node = rclpy.create_node("moved_camera", cli_args=["--ros-args", "-r", "/tf:=/tf_of_jumps"])
    publisher = node.create_publisher(TFMessage, "/tf", 10)
    fixed = FixedFrame(node, "before_and_after")

    def move(time_s: int, x: float) -> None:
        message = TransformStamped(child_frame_id="moved_camera")
        message.header.frame_id = fixed.frame
        message.header.stamp = stamp_message(time_s * 10**9)
        message.transform.translation.x = x
        publisher.publish(TFMessage(transforms=[message]))
        assert publisher.wait_for_all_acked()

    def position(time_s: int) -> float:
        return float(fixed.lookup("moved_camera", time_s * 10**9).translation[0])

    try:
        end = time.monotonic() + 30.0
        while publisher.get_subscription_count() == 0:
            assert time.monotonic() < end
            time.sleep(0.01)
        move(1000, 1.0)
        assert position(1000) == 1.0
        move(1001, 2.0)
        move(5, 3.0)
        assert position(5) == 3.0
        move(6, 4.0)
        assert position(6) == 4.0
    finally:
        fixed.close()
        node.destroy_node()


def test_viewers_are_told_where_targets_are(moving):
    probe = moving
    rig = Rig(probe)
    rig.ground, rig.camera_pose = FAR, (10.0, 20.0, 1.0)
    markers, annotations = [], []
    ears = [
        probe.listen(MarkerArray, "target_markers", markers),
        probe.listen(ImageAnnotations, "target_annotations", annotations),
    ]
    name = probe.start_following()
    try:
        pose, header = rig.show("target_pose")
        stamp = header.stamp
        shown = probe.until(
            lambda: next(
                (m for m in markers if m.markers and m.markers[0].header.stamp == stamp), None
            ),
            "markers",
        )
        ball, label = shown.markers[:2]
        assert (ball.type, ball.header.frame_id) == (Marker.SPHERE, "odom")
        assert ball.pose.position == pose.pose.pose.position
        assert (label.type, name in label.text) == (Marker.TEXT_VIEW_FACING, True)
        assert len({marker.ns for marker in shown.markers}) == len(shown.markers)
        assert 0 < ball.lifetime.sec <= 2, "markers of a lost target vanish"

        drawn = probe.until(
            lambda: next(
                (a for a in annotations if a.points and a.points[0].timestamp == stamp), None
            ),
            "annotations",
        )
        assert [text.text for text in drawn.texts][0].startswith(f"#{name} ")
    finally:
        for ear in ears:
            probe.node.destroy_subscription(ear)
        rig.close()
