# SPDX-License-Identifier: Apache-2.0
"""A node that plays camera and operator for one tracker, and hears what the tracker publishes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NoReturn

import rclpy
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from std_srvs.srv import SetBool, Trigger
from vision_msgs.msg import Detection2D

from tools.harness import HarnessError
from tracker_interfaces.srv import RemoveTarget, SelectTarget
from tracker_ros.geometry import Box
from tracker_ros.nodes.messages import bounding_box_of, keep_last

ACTIVE, INACTIVE = State.PRIMARY_STATE_ACTIVE, State.PRIMARY_STATE_INACTIVE
UNCONFIGURED = State.PRIMARY_STATE_UNCONFIGURED
PATIENCE_S = 60.0
"""Default limit of every wait. Generous: only a fault should ever reach it."""
_ACTIVATE_TRIES = 20
_STEPS = {
    (UNCONFIGURED, ACTIVE): Transition.TRANSITION_CONFIGURE,
    (UNCONFIGURED, INACTIVE): Transition.TRANSITION_CONFIGURE,
    (INACTIVE, ACTIVE): Transition.TRANSITION_ACTIVATE,
    (INACTIVE, UNCONFIGURED): Transition.TRANSITION_CLEANUP,
    (ACTIVE, INACTIVE): Transition.TRANSITION_DEACTIVATE,
    (ACTIVE, UNCONFIGURED): Transition.TRANSITION_DEACTIVATE,
}


class Operator:
    """Publishes images, calls services and records topics of the tracker in one namespace.

    Nothing sleeps and hopes: every wait spins until its condition is met.

    Attributes:
        node: The node itself, for further publishers and clients.
        images: Publisher of `image`.
        boxes: Publisher of `selection`.
        selector, remover, clearer, enabler, setter, changer, state_asker: Clients of the services.

    Args:
        name: Of the node.
        namespace: The tracker's namespace.
        alive: Tells whether the tracker's program still runs; if not, every wait ends at once.
    """

    def __init__(
        self, name: str = "operator", namespace: str = "", alive: Callable[[], bool] | None = None
    ) -> None:
        self.node = rclpy.create_node(name, namespace=namespace)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self.alive = alive or (lambda: True)
        self.images = self.node.create_publisher(Image, "image", keep_last(5))
        self.boxes = self.node.create_publisher(Detection2D, "selection", keep_last(1))
        self.selector = self.node.create_client(
            SelectTarget, "select_target", qos_profile=QoSProfile(depth=1000)
        )
        self.remover = self.node.create_client(RemoveTarget, "remove_target")
        self.clearer = self.node.create_client(Trigger, "clear_target")
        self.enabler = self.node.create_client(SetBool, "enable")
        self.setter = self.node.create_client(SetParameters, "track/set_parameters")
        self.changer = self.node.create_client(ChangeState, "track/change_state")
        self.state_asker = self.node.create_client(GetState, "track/get_state")

    def hear(self, kind: type, topic: str, handler: Callable[[Any], Any], qos: Any = 10) -> Any:
        """Call `handler`, such as a list's `append`, with every message of a topic.

        Returns:
            The subscription, for `node.destroy_subscription`.
        """
        return self.node.create_subscription(kind, topic, handler, qos)

    def turn(self, patience_s: float) -> float:
        """Handle the next event, if one comes in time. Returns the seconds that passed."""
        began = time.monotonic()
        self._executor.spin_once(timeout_sec=patience_s)
        return time.monotonic() - began

    def spin(self, seconds: float) -> None:
        """Handle events for a while."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.turn(left)

    def wait(self, met: Callable[[], Any], patience_s: float = PATIENCE_S) -> Any:
        """Handle events until `met()` is true. Returns its value, or None on timeout.

        A turn counts for at most a second, so time in which the whole machine stood still,
        asleep or stopped, does not count. The wait also ends when the tracker's program has.
        """
        while not (found := met()):
            if patience_s <= 0 or not self.alive():
                return None
            patience_s -= min(self.turn(0.05), 1.0)
        return found

    def until(self, met: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> Any:
        """Handle events until `met()` is true. Returns its value.

        Raises:
            HarnessError: It was not in time; `what` names it.
        """
        found = self.wait(met, patience_s)
        if not found:
            self._fail(what, patience_s)
        return found

    def _fail(self, what: str, patience_s: float) -> NoReturn:
        """Raise the error of a wait that was in vain."""
        ended = "" if self.alive() else ": the tracker's program has ended"
        raise HarnessError(f"waited {patience_s:g} s for {what} in vain{ended}")

    def watched(self) -> bool:
        """Whether the tracker subscribes to the camera, which it does while it is active."""
        return self.images.get_subscription_count() > 0

    def call(self, client: Any, request: Any) -> Any:
        """Call a service as soon as it is there. Returns its response.

        Raises:
            HarnessError: The service did not come up or did not answer.
        """
        return self.call_all((client, request))[0]

    def call_all(self, *pairs: tuple[Any, Any], patience_s: float = PATIENCE_S) -> list[Any]:
        """Send several requests, (client, request) each, at once. Returns their responses.

        Raises:
            HarnessError: A service did not come up or did not answer.
        """
        for client, _ in pairs:
            self.until(client.service_is_ready, f"the service {client.srv_name}", patience_s)
        asked = [(client, client.call_async(request)) for client, request in pairs]
        self.wait(lambda: all(future.done() for _, future in asked), patience_s)
        for client, future in asked:
            if not future.done():
                client.remove_pending_request(future)
                self._fail(f"an answer of {client.srv_name}", patience_s)
        return [future.result() for _, future in asked]

    def select(
        self, box: Box, header: Header | None = None, label: str = "", append: bool = False
    ) -> SelectTarget.Response:
        """Select a box (x, y, w, h), on the newest image unless a header is given."""
        return self.call(self.selector, selection(box, header, label, append))

    def remove(self, target_id: str) -> RemoveTarget.Response:
        """Stop following one target."""
        return self.call(self.remover, RemoveTarget.Request(target_id=target_id))

    def clear(self) -> Trigger.Response:
        """Stop following all targets."""
        return self.call(self.clearer, Trigger.Request())

    def enable(self, enabled: bool) -> SetBool.Response:
        """Resume or pause tracking."""
        return self.call(self.enabler, SetBool.Request(data=enabled))

    def set(self, **values: Any) -> list[tuple[bool, str]]:
        """Set parameters. Returns whether each was accepted, and the reason if not."""
        answer = self.call(self.setter, parameters(**values))
        return [(result.successful, result.reason) for result in answer.results]

    def change(self, transition: int) -> bool:
        """Request a lifecycle transition. Returns whether it succeeded."""
        request = ChangeState.Request(transition=Transition(id=transition))
        return bool(self.call(self.changer, request).success)

    def state(self) -> int:
        """Return the tracker's lifecycle state."""
        return int(self.call(self.state_asker, GetState.Request()).current_state.id)

    def bring(self, wanted: int) -> bool:
        """Bring the tracker into a lifecycle state. Returns whether that succeeded."""
        for _ in range(_ACTIVATE_TRIES):  # activating fails while the model is still loading
            now = self.state()
            if now == wanted:
                return True
            if (now, wanted) not in _STEPS:
                return False
            self.change(_STEPS[now, wanted])
        return False

    def close(self) -> None:
        """Leave the graph."""
        self._executor.remove_node(self.node)
        self._executor.shutdown()
        self.node.destroy_node()

    def __enter__(self) -> Operator:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def selection(
    box: Box, header: Header | None = None, label: str = "", append: bool = False
) -> SelectTarget.Request:
    """Return the request that selects a box (x, y, w, h) on the image with that header."""
    return SelectTarget.Request(
        header=header or Header(), bbox=bounding_box_of(box), label=label, append=append
    )


def parameters(**values: Any) -> SetParameters.Request:
    """Return the request that sets parameters by name."""
    return SetParameters.Request(
        parameters=[
            Parameter(name, value=value).to_parameter_msg() for name, value in values.items()
        ]
    )
