# SPDX-License-Identifier: Apache-2.0
"""Camera and operator of one tracker, as one node: shows images, asks, listens, keeps count."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import SetParameters
from rclpy.clock import Clock, ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image
from std_srvs.srv import SetBool, Trigger
from vision_msgs.msg import Detection2D

from tools.soak.camera import Camera
from tracker_interfaces.msg import TargetStatus
from tracker_interfaces.srv import RemoveTarget, SelectTarget
from tracker_ros.nodes.messages import keep_last

ANSWER_S = 30.0
"""How long an answer may take at most, on a machine that does other things too."""
ACTIVATE_TRIES = 10
STANDSTILL_S = 5.0

ACTIVE, INACTIVE = State.PRIMARY_STATE_ACTIVE, State.PRIMARY_STATE_INACTIVE
UNCONFIGURED = State.PRIMARY_STATE_UNCONFIGURED


class Driver(Node):
    """Plays camera and operator for the tracker in the same namespace.

    Attributes:
        camera: Makes the images.
        requests: How many there were, by service.
        unanswered: Those that got no answer, in words.
        silent_refusals: Refusals that gave no reason.
        statuses: How many were heard.
        sums_wrong: Statuses whose counters do not add up.
        status: The newest.
        boxes: How many were heard.
        standstills: How often this process, and with it the machine, stood still.

    Args:
        camera: Makes the images.
        alive: Whether the tracker's program still runs; nothing is awaited from it otherwise.
        explain: Called when an answer is overdue, before it is given up.
    """

    def __init__(
        self, camera: Camera, alive: Callable[[], bool], explain: Callable[[], None]
    ) -> None:
        super().__init__("soak")
        self._spinner = SingleThreadedExecutor()
        self._spinner.add_node(self)
        self.camera = camera
        self._alive, self._explain = alive, explain
        self.requests: Counter[str] = Counter()
        self.unanswered: list[str] = []
        self.silent_refusals: list[str] = []
        self.sums_wrong: list[str] = []
        self.statuses = self.boxes = self.standstills = 0
        self.status = TargetStatus()
        self._image = self.create_publisher(Image, "image", keep_last(1))
        self.selection = self.create_publisher(Detection2D, "selection", keep_last(1))
        self.create_subscription(TargetStatus, "target_status", self._on_status, keep_last(50))
        self.create_subscription(Detection2D, "target", self._on_target, keep_last(10))
        self.selector = self.create_client(SelectTarget, "select_target")
        self.remover = self.create_client(RemoveTarget, "remove_target")
        self.clearer = self.create_client(Trigger, "clear_target")
        self.enabler = self.create_client(SetBool, "enable")
        self._setter = self.create_client(SetParameters, "track/set_parameters")
        self._changer = self.create_client(ChangeState, "track/change_state")
        self._asker = self.create_client(GetState, "track/get_state")
        self._looking: list[Any] = []
        self._timer: Any = None
        self.newest_stamp: Any = None
        self._stood_still = -math.inf

    def set_rate(self, hertz: float) -> None:
        """Show so many images per second from now on; 0 for none."""
        if self._timer is not None:
            self.destroy_timer(self._timer)
            self._timer = None
        if hertz > 0:
            steady = Clock(clock_type=ClockType.STEADY_TIME)
            self._timer = self.create_timer(1.0 / hertz, self._show, clock=steady)

    def look(self, wanted: bool) -> None:
        """Listen to the debug images, or stop; they are made only for listeners."""
        for subscription in self._looking:
            self.destroy_subscription(subscription)
        topics = ("debug/image", "debug/score") if wanted else ()
        self._looking = [
            self.create_subscription(Image, topic, lambda image: None, keep_last(1))
            for topic in topics
        ]

    def spin(self, seconds: float) -> None:
        """Let time pass; the camera goes on."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._turn(left)

    def spin_until(self, met: Callable[[], Any], patience_s: float) -> bool:
        """Let time pass until something is the case; whether it was in time.

        Time in which the whole machine stood still, asleep or stopped, does not count.
        """
        while not met():
            if patience_s <= 0 or not self._alive():
                return False
            patience_s -= min(self._turn(0.05), 1.0)
        return True

    def _turn(self, patience_s: float) -> float:
        """Wait for one thing to happen; seconds that it took."""
        began = time.monotonic()
        self._spinner.spin_once(timeout_sec=patience_s)
        took = time.monotonic() - began
        if took > patience_s + STANDSTILL_S:
            self.standstills += 1
            self._stood_still = time.monotonic()
        return took

    def wait_for_tracker(self) -> bool:
        """Wait until every service is there and the node is active."""
        clients = (
            self.selector, self.remover, self.clearer, self.enabler,
            self._setter, self._changer, self._asker,
        )  # fmt: skip
        return self.spin_until(
            lambda: all(client.service_is_ready() for client in clients), ANSWER_S
        ) and self.spin_until(self.watched, ANSWER_S)

    def watched(self) -> bool:
        """Whether somebody subscribes to the camera."""
        return self._image.get_subscription_count() > 0

    def ask(self, *pairs: tuple[Any, Any]) -> list[Any]:
        """Send requests, all at once, and wait for their answers; None for one that never came.

        They are sent once more if the machine stood still meanwhile or just before: the
        middleware forgets who is silent for 20 seconds, and what was under way to him.

        Args:
            pairs: Clients and their requests.
        """
        asked, began = [], time.monotonic()
        for client, request in pairs:
            self.requests[client.srv_name] += 1
            asked.append((client, client.call_async(request)))
        if not self.spin_until(lambda: all(future.done() for _, future in asked), ANSWER_S):
            late = [(client, future) for client, future in asked if not future.done()]
            for client, future in late:
                client.remove_pending_request(future)
            if self._stood_still > began - ANSWER_S:
                return self.ask(*pairs)
            self._explain()
            self.unanswered += [
                f"{client.srv_name}, no answer within {ANSWER_S:g} s" for client, _ in late
            ]
        answers = [future.result() if future.done() else None for _, future in asked]
        for (client, _), answer in zip(asked, answers, strict=True):
            if not getattr(answer, "success", True) and not getattr(answer, "message", "?"):
                self.silent_refusals.append(f"{client.srv_name} refused without a reason")
        return answers

    def set(self, **values: Any) -> list[bool]:
        """Set parameters of the tracker; which were accepted."""
        parameters = [
            Parameter(name, value=value).to_parameter_msg() for name, value in values.items()
        ]
        (answer,) = self.ask((self._setter, SetParameters.Request(parameters=parameters)))
        if answer is None:
            return []
        for result in answer.results:
            if not result.successful and not result.reason:
                self.silent_refusals.append(f"{sorted(values)} refused without a reason")
        return [result.successful for result in answer.results]

    def change(self, transition: int) -> bool:
        """Ask for a lifecycle transition; whether it succeeded."""
        request = ChangeState.Request(transition=Transition(id=transition))
        (answer,) = self.ask((self._changer, request))
        return answer is not None and answer.success

    def state(self) -> int:
        """The tracker's lifecycle state."""
        (answer,) = self.ask((self._asker, GetState.Request()))
        return State.PRIMARY_STATE_UNKNOWN if answer is None else answer.current_state.id

    def bring(self, wanted: int) -> bool:
        """Bring the tracker into a lifecycle state; whether that succeeded."""
        steps = {
            (UNCONFIGURED, ACTIVE): Transition.TRANSITION_CONFIGURE,
            (UNCONFIGURED, INACTIVE): Transition.TRANSITION_CONFIGURE,
            (INACTIVE, ACTIVE): Transition.TRANSITION_ACTIVATE,
            (INACTIVE, UNCONFIGURED): Transition.TRANSITION_CLEANUP,
            (ACTIVE, INACTIVE): Transition.TRANSITION_DEACTIVATE,
            (ACTIVE, UNCONFIGURED): Transition.TRANSITION_DEACTIVATE,
        }
        for _ in range(ACTIVATE_TRIES):  # activating fails while the model is still loading
            now = self.state()
            if now == wanted:
                return True
            if (now, wanted) not in steps:
                return False
            self.change(steps[now, wanted])
        return False

    def _show(self) -> None:
        image = self.camera.next(self.get_clock().now().nanoseconds)
        if image is not None:
            self.newest_stamp = image.header.stamp
            self._image.publish(image)

    def _on_target(self, message: Detection2D) -> None:
        self.boxes += 1

    def _on_status(self, message: TargetStatus) -> None:
        self.statuses += 1
        self.status = message
        parts = {
            name: getattr(message, f"frames_{name}")
            for name in ("tracked", "dropped", "rejected", "idle")
        }
        if message.frames_received != sum(parts.values()):
            self.sums_wrong.append(f"{message.frames_received} received, {parts}")

    def close(self) -> None:
        """Leave the graph."""
        self._spinner.remove_node(self)
        self._spinner.shutdown()
        self.destroy_node()
