# SPDX-License-Identifier: Apache-2.0
"""A node that plays camera and operator for one tracker, and the scene that its camera sees.

Nothing sleeps for a while and hopes: the probe spins until what is awaited has come.
"""

from __future__ import annotations

import array
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import cv2
import numpy as np
import pytest
import rclpy
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import Log, Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from std_srvs.srv import SetBool, Trigger
from vision_msgs.msg import Detection2D

from tracker_interfaces.msg import TargetStatus, TargetStatusArray
from tracker_interfaces.srv import RemoveTarget, SelectTarget
from tracker_ros.geometry import iou
from tracker_ros.nodes.parameters import TRACK_PARAMETERS, Change

PATIENCE_S = 60.0


class Scene:
    """A textured disc that moves over a textured ground; the same at every run."""

    def __init__(self, width: int = 320, height: int = 240) -> None:
        rng = np.random.default_rng(5)
        self.width, self.height = width, height
        coarse = rng.integers(40, 200, (9, 12, 3)).astype(np.uint8)
        ground = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        noise = rng.integers(0, 24, (height, width, 3)).astype(np.uint8)
        self._ground = cv2.add(ground, noise)
        side = round(width * 0.15)
        face = np.full((48, 48, 3), (235, 40, 50), np.uint8)
        cv2.rectangle(face, (8, 8), (22, 22), (250, 240, 40), -1)
        cv2.circle(face, (34, 32), 9, (30, 60, 220), -1)
        cv2.line(face, (2, 44), (44, 2), (255, 255, 255), 3)
        self._face = cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA)
        self._disc = np.zeros((side, side), np.uint8)
        cv2.circle(self._disc, (side // 2, side // 2), side // 2, 255, -1)
        self.side = side

    def box(self, place: float) -> tuple[float, float, float, float]:
        """``(x, y, w, h)`` of the disc, whole pixels; ``place`` counts frames."""
        x = self.width * (0.42 + 0.36 * np.sin(place * 0.025))
        y = self.height * (0.40 + 0.15 * np.sin(place * 0.017))
        return float(int(x)), float(int(y)), float(self.side), float(self.side)

    def image(self, place: float, visible: bool = True) -> np.ndarray:
        """(H, W, 3) uint8 RGB."""
        picture = self._ground.copy()
        if visible:
            x, y, _, _ = (int(v) for v in self.box(place))
            part = picture[y : y + self.side, x : x + self.side]
            part[self._disc > 0] = self._face[self._disc > 0]
        return picture


def image_message(pixels: np.ndarray, header: Header, encoding: str = "rgb8") -> Image:
    """A message with these bytes, rows without padding."""
    data = array.array("B")
    data.frombytes(np.ascontiguousarray(pixels).tobytes())
    height, width = pixels.shape[:2]
    return Image(
        header=header,
        height=height,
        width=width,
        step=len(data) // height,
        encoding=encoding,
        data=data,
    )


def latched(depth: int) -> QoSProfile:
    """A new profile for one who also wants what was published before it came."""
    return QoSProfile(
        depth=depth,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL,
    )


class Probe:
    """A node in the graph that talks to one tracker and remembers what it hears.

    Args:
        namespace: The tracker's namespace, or that of one of its cameras.
        tracker: Full name of the tracker's node; "track" in the namespace if empty.
    """

    def __init__(self, namespace: str = "", tracker: str = "") -> None:
        self.namespace = namespace
        self.tracker = tracker or f"{namespace}/track"
        self.node = rclpy.create_node("probe", namespace=namespace)
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.scene = Scene()
        self.place = 0
        self.targets: list[Detection2D] = []
        self.statuses: list[TargetStatus] = []
        self.arrays: list[TargetStatusArray] = []
        self.diagnostics: list[DiagnosticStatus] = []
        self.logs: list[Log] = []
        self.camera = self.node.create_publisher(Image, "image", 5)
        self.boxes = self.node.create_publisher(Detection2D, "selection", 1)
        self.added_boxes = self.node.create_publisher(Detection2D, "selection_append", 1)
        self.masks = self.node.create_publisher(Image, "selection_mask", 1)
        self.added_masks = self.node.create_publisher(Image, "selection_mask_append", 1)
        self.listen(Detection2D, "target", self.targets, 200)
        self.listen(TargetStatus, "target_status", self.statuses, latched(200))
        self.listen(TargetStatusArray, "target_statuses", self.arrays, latched(200))
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 20)
        self.listen(Log, "/rosout", self.logs, latched(200))
        self.selector = self.node.create_client(
            SelectTarget, "select_target", qos_profile=QoSProfile(depth=1000)
        )
        self.remover = self.node.create_client(RemoveTarget, "remove_target")
        self.clearer = self.node.create_client(Trigger, "clear_target")
        self.enabler = self.node.create_client(SetBool, "enable")
        self.setter = self.node.create_client(SetParameters, f"{self.tracker}/set_parameters")
        self.changer = self.node.create_client(ChangeState, f"{self.tracker}/change_state")
        self.greeter = self.node.create_client(GetState, f"{self.tracker}/get_state")
        self.met = False

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        """Keep what the tracker itself tells: all nodes of a graph share the topic."""
        self.diagnostics += [s for s in message.status if s.hardware_id == self.tracker]

    def listen(self, kind: type, topic: str, into: list, qos: Any = 10) -> Any:
        """Append what comes on a topic to a list."""
        return self.node.create_subscription(kind, topic, into.append, qos)

    def latched_message(self, kind: type, topic: str) -> Any:
        """What somebody receives who subscribes only now, with room for many messages."""
        heard: list[Any] = []
        listener = self.listen(kind, topic, heard, latched(17))
        self.until(lambda: heard, f"a latched message on {topic}")
        self.settle()
        self.node.destroy_subscription(listener)
        assert len(heard) == 1
        return heard[0]

    def close(self) -> None:
        """Leave the graph."""
        self.executor.remove_node(self.node)
        self.node.destroy_node()
        self.executor.shutdown()

    def until(
        self, met: Callable[[], Any], what: str, timeout_s: float = PATIENCE_S, fail: bool = True
    ) -> Any:
        """Spin until ``met`` returns something true, and return that."""
        deadline = time.monotonic() + timeout_s
        while not (found := met()):
            if time.monotonic() > deadline:
                if fail:
                    logs = "\n".join(f"  {log.msg}" for log in self.logs[-15:])
                    pytest.fail(f"{what} did not happen within {timeout_s} s; last logs:\n{logs}")
                return None
            self.executor.spin_once(timeout_sec=0.02)
        return found

    def settle(self, seconds: float = 0.5) -> None:
        """Spin for a while."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.executor.spin_once(timeout_sec=0.02)

    def meet(self) -> None:
        """Spin until the tracker has discovered this probe, so that no answer is lost.

        A client knows when it has discovered a service, but not whether the service has discovered
        it; an answer sent before is lost. The probe's last endpoint is the client of a service
        that changes nothing: as soon as that is answered, all earlier endpoints are known as well.
        """
        self.until(self.greeter.service_is_ready, f"service {self.greeter.srv_name}")
        answers = [self.greeter.call_async(GetState.Request())]
        while not self.until(lambda: any(a.done() for a in answers), "", 2.0, fail=False):
            assert len(answers) < PATIENCE_S / 2.0, "the tracker does not answer"
            answers.append(self.greeter.call_async(GetState.Request()))
        self.met = True

    def call(self, client: Any, request: Any) -> Any:
        """Call a service and return its response."""
        if not self.met:
            self.meet()
        self.until(client.service_is_ready, f"service {client.srv_name}")
        future = client.call_async(request)
        self.until(future.done, f"an answer of {client.srv_name}")
        return future.result()

    def change(self, transition: int) -> bool:
        """Ask for a lifecycle transition; whether it succeeded."""
        request = ChangeState.Request(transition=Transition(id=transition))
        return bool(self.call(self.changer, request).success)

    def set(self, **values: Any) -> list[tuple[bool, str]]:
        """Set parameters one by one. Returns success and reason of each."""
        kinds = {
            bool: (ParameterType.PARAMETER_BOOL, "bool_value"),
            int: (ParameterType.PARAMETER_INTEGER, "integer_value"),
            float: (ParameterType.PARAMETER_DOUBLE, "double_value"),
            str: (ParameterType.PARAMETER_STRING, "string_value"),
        }
        request = SetParameters.Request()
        for name, value in values.items():
            kind, field = kinds[type(value)]
            request.parameters.append(
                Parameter(name=name, value=ParameterValue(type=kind, **{field: value}))
            )
        return [(r.successful, r.reason) for r in self.call(self.setter, request).results]

    def clear(self) -> Trigger.Response:
        """Clear the target."""
        return self.call(self.clearer, Trigger.Request())

    def remove(self, target_id: str) -> RemoveTarget.Response:
        """Remove one target."""
        return self.call(self.remover, RemoveTarget.Request(target_id=target_id))

    def enable(self, enabled: bool) -> SetBool.Response:
        """Pause or go on."""
        return self.call(self.enabler, SetBool.Request(data=enabled))

    def select(
        self,
        box: tuple[float, float, float, float],
        header: Header | None = None,
        label: str = "",
        theta: float = 0.0,
        append: bool = False,
    ) -> SelectTarget.Response:
        """Select ``(x, y, w, h)``; the header is the newest frame's unless given."""
        return self.call(self.selector, self.request(box, header, label, theta, append))

    def request(
        self,
        box: tuple[float, float, float, float],
        header: Header | None = None,
        label: str = "",
        theta: float = 0.0,
        append: bool = False,
    ) -> SelectTarget.Request:
        """A request to follow ``(x, y, w, h)``."""
        x, y, w, h = box
        request = SelectTarget.Request(header=header or Header(), label=label, append=append)
        request.bbox.center.position.x = x + w / 2
        request.bbox.center.position.y = y + h / 2
        request.bbox.center.theta = theta
        request.bbox.size_x = float(w)
        request.bbox.size_y = float(h)
        return request

    def begin(self) -> None:
        """Start over: no target, tracking enabled, default parameters, nothing heard yet."""
        assert self.enable(True).success
        assert self.clear().success
        running = {s.name: s.default for s in TRACK_PARAMETERS if s.change is Change.RUNNING}
        assert all(accepted for accepted, _ in self.set(**running))
        self.place = 0
        self.scene = Scene()
        self.show()
        for heard in (self.targets, self.statuses, self.arrays, self.logs):
            heard.clear()

    def connect(self) -> None:
        """Wait until the tracker takes images and is heard."""
        self.until(
            lambda: (
                self.camera.get_subscription_count() > 0
                and self.node.count_publishers(self.node.resolve_topic_name("target_status")) > 0
            ),
            "the tracker's subscription to images",
            timeout_s=2 * PATIENCE_S,
        )
        self.meet()

    def header(self, stamp: Time | None = None) -> Header:
        """A camera's header, stamped now."""
        return Header(
            stamp=self.node.get_clock().now().to_msg() if stamp is None else stamp,
            frame_id="camera",
        )

    def publish(self, message: Image) -> Header:
        """Publish an image without waiting."""
        self.camera.publish(message)
        return message.header

    def publish_scene(self) -> Header:
        """Publish the scene's next frame without waiting."""
        self.place += 1
        return self.publish(image_message(self.scene.image(self.place), self.header()))

    def show(
        self,
        visible: bool = True,
        make: Callable[[Header], Image] | None = None,
        stamp: Time | None = None,
    ) -> Any:
        """Publish the scene's next frame and return the status of it.

        A best-effort image may be lost: then the frame is sent again, with a new stamp unless one
        is given.
        """
        self.place += 1
        for _ in range(5):
            header = self.header(stamp)
            picture = self.scene.image(self.place, visible)
            self.camera.publish(make(header) if make else image_message(picture, header))
            status = self.until(partial(self.status_of, header), "", timeout_s=10.0, fail=False)
            if status:
                return status
        logs = "\n".join(f"  {log.msg}" for log in self.logs[-15:])
        return pytest.fail(f"no status for five images in a row; last logs:\n{logs}")

    def array_of(self, header: Header) -> TargetStatusArray | None:
        """The statuses of one frame, if they have come."""
        return next((a for a in reversed(self.arrays) if a.header == header), None)

    def status_of(self, header: Header) -> TargetStatus | None:
        """The status of one frame, if it has come."""
        return next((s for s in reversed(self.statuses) if s.header == header), None)

    def target_of(self, header: Header) -> Detection2D | None:
        """The box of one frame, if it has come."""
        return next((t for t in reversed(self.targets) if t.header == header), None)

    def follow(self, frames: int = 3) -> Detection2D:
        """Show some frames with a target selected; the last one's box."""
        for _ in range(frames):
            status = self.show()
        return self.until(lambda: self.target_of(status.header), "a box for the last frame")

    def overlap(self, target: Detection2D) -> float:
        """IoU of a published box with the scene's truth at the present place."""
        centre, bbox = target.bbox.center.position, target.bbox
        width, height = bbox.size_x, bbox.size_y
        box = (centre.x - width / 2, centre.y - height / 2, width, height)
        return float(iou(box, self.scene.box(self.place)))

    def follows(self, target: Detection2D) -> bool:
        """Whether a box is on the disc; how well it fits is the model's affair, not the node's."""
        return self.overlap(target) > 0.5

    def start_following(self, label: str = "") -> str:
        """Show a frame, select the disc on it, and return the target's id."""
        header = self.show().header
        response = self.select(self.scene.box(self.place), header, label)
        assert response.code == response.OK, response.message
        return str(response.target_id)

    def level_of(self, task: str) -> tuple[bytes, str]:
        """Level and message of a task in the newest diagnostics."""
        status = self.diagnosis(task)
        return (status.level, status.message) if status is not None else (b"", "")

    def diagnosis(self, task: str) -> DiagnosticStatus | None:
        """A task in the newest diagnostics."""
        found = (s for s in reversed(self.diagnostics) if s.name.endswith(f": {task}"))
        return next(found, None)
