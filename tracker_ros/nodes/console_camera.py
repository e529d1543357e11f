# SPDX-License-Identifier: Apache-2.0
"""One camera on the console: what its tracker publishes becomes pictures and states."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

import cv2
import numpy as np
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.node import Node
from rclpy.subscription import Subscription
from rclpy.task import Future
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from std_srvs.srv import SetBool, Trigger
from vision_msgs.msg import Detection2DArray

from tracker_interfaces.msg import TargetDirectionArray, TargetStatus, TargetStatusArray
from tracker_interfaces.srv import RemoveTarget, SelectTarget
from tracker_ros.console.hub import Hub, Picture
from tracker_ros.following.target_state import TargetState
from tracker_ros.io.image_encodings import MalformedImageError, UnsupportedEncodingError
from tracker_ros.nodes.messages import (
    bounding_box_of,
    box_of,
    keep_last,
    rgb_from_image,
    stamp_nanoseconds,
)

__all__ = ["ConsoleCamera", "encode_jpeg"]

_KEPT_IMAGES = 8
_STATUS_PATIENCE_S = 0.5
_ANSWER_S = 20.0


def encode_jpeg(pixels: np.ndarray, max_width: int, quality: int) -> bytes:
    """Encode (H, W, 3) uint8 RGB as JPEG, at most ``max_width`` pixels wide."""
    height, width = pixels.shape[:2]
    if width > max_width:
        size = max_width, max(1, round(height * max_width / width))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    good, data = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not good:
        raise ValueError(f"an image of shape {pixels.shape} cannot be encoded as JPEG")
    return data.tobytes()


class ConsoleCamera:
    """Subscribes to a tracker's topics and asks its services.

    A picture is shown when the tracker has said what it saw in it, with those boxes. If the
    tracker says nothing for half a second, the picture is shown without boxes.

    Args:
        node: The console's node.
        name: Name of the camera, which is the tracker's namespace; empty for the node's own.
        hub: Where pictures and states go.
        max_width: Width of pictures, pixels, at most.
        quality: Of JPEG, 1 to 100.
        max_rate: Pictures per second at most.
    """

    def __init__(
        self, node: Node, name: str, hub: Hub, max_width: int, quality: int, max_rate: float
    ) -> None:
        self.name = name
        self._node = node
        self._hub = hub
        self._max_width, self._quality = max_width, quality
        self._interval_s = 1.0 / max_rate
        self._images: OrderedDict[int, Image] = OrderedDict()
        self._targets: Detection2DArray | None = None
        self._directions: TargetDirectionArray | None = None
        self._shown_s = self._image_s = self._status_s = float("-inf")
        self._video: list[Subscription] = []
        node.create_subscription(
            TargetStatusArray, self._topic("target_statuses"), self._on_statuses,
            keep_last(1, latched=True),
        )  # fmt: skip
        clients = {
            "select": (SelectTarget, "select_target"),
            "remove": (RemoveTarget, "remove_target"),
            "clear": (Trigger, "clear_target"),
            "enable": (SetBool, "enable"),
            "set": (SetParameters, "track/set_parameters"),
            "change": (ChangeState, "track/change_state"),
        }
        self._clients = {
            do: node.create_client(kind, self._topic(service))
            for do, (kind, service) in clients.items()
        }
        self._commands: dict[str, Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]] = {
            "select": self._select,
            "remove": self._remove,
            "clear": lambda command: self._call("clear", Trigger.Request()),
            "enable": self._enable,
            "model": self._change_model,
        }

    def watch(self, watched: bool) -> None:
        """Subscribe to pictures while somebody looks at them."""
        for subscription in self._video:
            self._node.destroy_subscription(subscription)
        self._video = []
        self._images.clear()
        if not watched:
            return
        for kind, topic, callback, qos in (
            (Image, "image", self._on_image, keep_last(1, reliable=False)),
            (Image, "debug/score", self._on_score, keep_last(1)),
            (Detection2DArray, "targets", self._on_targets, keep_last(1)),
            (TargetDirectionArray, "target_directions", self._on_directions, keep_last(1)),
        ):
            name = self._topic(topic)
            self._video.append(self._node.create_subscription(kind, name, callback, qos))

    def report_health(self) -> None:
        """Tell viewers how old the last image and the last status are, and show what is left."""
        now = time.monotonic()
        ages = {
            "image_age": _age(now, self._image_s) if self._video else None,
            "status_age": _age(now, self._status_s),
        }
        self._hub.offer_state("health", self.name, ages)
        if self._images and now - self._status_s > _STATUS_PATIENCE_S:
            self._show(self._images.popitem()[1], [])

    async def carry_out(self, command: dict[str, Any]) -> dict[str, Any]:
        """Ask the tracker for what a viewer wants. Returns success, message and perhaps a code.

        Raises:
            KeyError, TypeError, ValueError: The command is not understood.
        """
        carry_out = self._commands.get(str(command["do"]))
        if carry_out is None:
            raise ValueError(
                f"do is {command['do']!r}; expected one of {', '.join(self._commands)}"
            )
        return await carry_out(command)

    def _topic(self, name: str) -> str:
        return f"{self.name}/{name}" if self.name else name

    def _on_image(self, message: Image) -> None:
        self._image_s = time.monotonic()
        self._images[stamp_nanoseconds(message.header)] = message
        while len(self._images) > _KEPT_IMAGES:
            self._images.popitem(last=False)

    def _on_targets(self, message: Detection2DArray) -> None:
        self._targets = message

    def _on_directions(self, message: TargetDirectionArray) -> None:
        self._directions = message

    def _on_statuses(self, message: TargetStatusArray) -> None:
        """Tell the states, and show the picture that they belong to, with its boxes."""
        self._status_s = time.monotonic()
        directions = {
            direction.target_id: direction
            for direction in (self._directions.directions if self._directions else ())
        }
        targets = [_status_facts(s, directions.get(s.target_id)) for s in message.statuses]
        counts = {fate: int(getattr(message, f"frames_{fate}")) for fate in ("tracked", "dropped")}
        stamp_ns = stamp_nanoseconds(message.header)
        state = {"stamp": str(stamp_ns), "targets": targets, "frames": counts}
        self._hub.offer_state("targets", self.name, state)
        image = self._images.pop(stamp_ns, None)
        if image is None:
            return
        boxes = []
        if self._targets is not None and self._targets.header == message.header:
            boxes = [{"id": d.id, "box": box_of(d.bbox)} for d in self._targets.detections]
        self._show(image, boxes)

    def _show(self, message: Image, boxes: list[dict[str, Any]]) -> None:
        """Encode a picture for the viewers, unless the last one was shown a moment ago."""
        now = time.monotonic()
        if not self._video or now - self._shown_s < 0.9 * self._interval_s:
            return
        facts = {
            "camera": self.name,
            "stamp": str(stamp_nanoseconds(message.header)),  # too large for JavaScript's numbers
            "frame_id": message.header.frame_id,
            "width": message.width,
            "height": message.height,
            "boxes": boxes,
        }
        self._offer("image", message, facts)
        self._shown_s = now

    def _on_score(self, message: Image) -> None:
        self._offer("score", message, {"camera": self.name})

    def _offer(self, what: str, message: Image, facts: dict[str, Any]) -> None:
        try:
            jpeg = encode_jpeg(rgb_from_image(message), self._max_width, self._quality)
        except (MalformedImageError, UnsupportedEncodingError) as error:
            self._node.get_logger().warning(
                f"{self._topic(what)} is not shown: {error}", throttle_duration_sec=10.0
            )
            return
        self._hub.offer_picture(Picture(f"{self.name}/{what}", jpeg, facts))

    async def _select(self, command: dict[str, Any]) -> dict[str, Any]:
        x, y, w, h = (float(value) for value in command["box"])
        header = Header(frame_id=str(command.get("frame_id", "")))
        header.stamp.sec, header.stamp.nanosec = divmod(int(command["stamp"]), 1_000_000_000)
        request = SelectTarget.Request(
            header=header,
            bbox=bounding_box_of((x, y, w, h)),
            label=str(command.get("label", "")),
            append=bool(command.get("append", False)),
        )
        return await self._call("select", request)

    async def _remove(self, command: dict[str, Any]) -> dict[str, Any]:
        return await self._call("remove", RemoveTarget.Request(target_id=str(command["id"])))

    async def _enable(self, command: dict[str, Any]) -> dict[str, Any]:
        return await self._call("enable", SetBool.Request(data=bool(command["on"])))

    async def _change_model(self, command: dict[str, Any]) -> dict[str, Any]:
        """Clean the tracker up, set the parameter, and start it again; it ends the targets."""
        value = ParameterValue(
            type=ParameterType.PARAMETER_STRING, string_value=str(command["model"])
        )
        for step in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP):
            await self._transition(step)  # fails if it is inactive already
        request = SetParameters.Request(parameters=[Parameter(name="model", value=value)])
        answer = await self._ask("set", request)
        accepted = answer is not None and answer.results[0].successful
        reason = "the tracker does not answer" if answer is None else answer.results[0].reason
        loads = await self._transition(Transition.TRANSITION_CONFIGURE)
        active = False
        for _ in range(
            15
        ):  # activate waits some seconds for the model and fails if it still loads
            active = active or (loads and await self._transition(Transition.TRANSITION_ACTIVATE))
        if not accepted:
            return {"success": False, "message": reason}
        text = f"model {command['model']} is active" if active else "the model cannot be loaded"
        return {"success": active, "message": text if active else f"{text}: see the log lines"}

    async def _transition(self, step: int) -> bool:
        request = ChangeState.Request(transition=Transition(id=step))
        answer = await self._ask("change", request)
        return answer is not None and bool(answer.success)

    async def _call(self, do: str, request: Any) -> dict[str, Any]:
        """Call a service. Returns success, message and, where it has one, code of the answer."""
        answer = await self._ask(do, request)
        if answer is None:
            name = self._node.resolve_service_name(self._clients[do].srv_name)
            return {
                "success": False,
                "message": f"{name} does not answer: is the tracker running?",
            }
        found = {"success": bool(answer.success), "message": str(answer.message)}
        if hasattr(answer, "code"):
            found["code"] = int(answer.code)
        if hasattr(answer, "target_id"):
            found["id"] = str(answer.target_id)
        return found

    async def _ask(self, do: str, request: Any) -> Any:
        """Call a service from the server's event loop. Returns None if nobody answers in time."""
        client = self._clients[do]
        if not client.service_is_ready():
            return None
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[Any] = loop.create_future()

        def pass_on(future: Future) -> None:
            def finish() -> None:
                if not answered.done():
                    answered.set_result(future.result())

            loop.call_soon_threadsafe(finish)

        pending = client.call_async(request)
        pending.add_done_callback(pass_on)
        try:
            return await asyncio.wait_for(answered, _ANSWER_S)
        except asyncio.TimeoutError:
            client.remove_pending_request(pending)
            return None


def _age(now_s: float, then_s: float) -> float | None:
    """Return the seconds since then, or None if it never was."""
    return None if then_s == float("-inf") else round(now_s - then_s, 2)


def _status_facts(status: TargetStatus, direction: Any) -> dict[str, Any]:
    """Return what viewers are told of a target, as JSON values."""
    facts: dict[str, Any] = {
        "id": status.target_id,
        "label": status.label,
        "state": TargetState(status.state).name,
        "score": round(float(status.score), 4),
        "seconds_since_seen": round(float(status.seconds_since_seen), 2),
        "latency": round(float(status.latency), 4),
    }
    if direction is not None:
        facts["azimuth"] = float(direction.azimuth)
        facts["elevation"] = float(direction.elevation)
        if np.isfinite(direction.distance):
            facts["distance"] = float(direction.distance)
    return facts
