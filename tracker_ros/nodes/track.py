# SPDX-License-Identifier: Apache-2.0
"""The ``track`` node: follows selected targets through a camera's images.

A lifecycle node. Configure begins to load the model in the worker's thread; activate subscribes to
images as soon as the model is ready; deactivate unsubscribes and forgets the targets; cleanup
releases the model.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import rclpy.lifecycle
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription

from tracker_ros.following.selection import Outcome, SelectionCode
from tracker_ros.model_options import parse_options
from tracker_ros.nodes.followed_camera import FollowedCamera
from tracker_ros.nodes.image_input import ImageInput
from tracker_ros.nodes.monitoring import Diagnostics
from tracker_ros.nodes.node_main import (
    NodeFault,
    exit_program,
    refuse_wrong_transitions,
    run_node,
)
from tracker_ros.nodes.parameters import (
    TRACK_PARAMETERS,
    ParameterTable,
    Value,
    check_command_line,
    check_scores,
)
from tracker_ros.nodes.services import TargetServices
from tracker_ros.nodes.session import Session
from tracker_ros.nodes.sub_node import SubNode
from tracker_ros.tracker import Tracker

__all__ = ["TrackNode", "create_from_parameters", "main"]

Transition = Callable[["TrackNode", LifecycleState], TransitionCallbackReturn]

_WATCH_S = 0.5
_AFTER_A_FAILURE = "clean the node up, correct the parameters, configure it again"


def _logged(transition: Transition) -> Transition:
    """Make a transition log what it raises, and fail; rclpy would end in ERROR without a word."""

    @functools.wraps(transition)
    def wrapped(self: TrackNode, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            return transition(self, state)
        except Exception as error:
            self.get_logger().error(f"{transition.__name__} failed: {error!r}")
            return TransitionCallbackReturn.FAILURE

    return wrapped


class TrackNode(rclpy.lifecycle.Node):
    """The tracker's node.

    Args:
        make_tracker: Makes a model from the node's parameters; by default with
            ``tracker_ros.create_tracker``.
        activation_patience_s: How long activate waits for the model; nav2's lifecycle manager
            waits 5 s for a transition.
        **options: For ``rclpy.lifecycle.Node``, such as namespace or parameter_overrides.

    Raises:
        NodeStartError: A parameter is refused.
    """

    def __init__(
        self,
        make_tracker: Callable[[ParameterTable], Tracker] | None = None,
        activation_patience_s: float = 4.0,
        **options: Any,
    ) -> None:
        super().__init__("track", **options)
        refuse_wrong_transitions(self)
        self._make_tracker = make_tracker or create_from_parameters
        self._activation_patience_s = activation_patience_s
        self._session: Session | None = None
        self._former_session: Session | None = None
        self._active = False
        self._selection_subscriptions: list[Subscription] = []
        self._image_inputs: list[ImageInput] = []
        self._target_ids = itertools.count(1)
        self._parameter_table = ParameterTable(
            self,
            TRACK_PARAMETERS,
            cross_check=check_scores,
            configured=lambda: self._session is not None,
            changed=self._apply,
        )
        names = self._parameter_table.text("cameras").split()
        self._cameras = {name: SubNode(self, name) for name in names} or {"": self}
        rate = self._parameter_table.number("diagnostics_rate")
        self._diagnostics = Diagnostics(self, rate, lambda: self._active, self._cameras)
        self._target_services = {
            name: TargetServices(node, functools.partial(self._camera_or_refusal, name))
            for name, node in self._cameras.items()
        }
        self._model_loaded = self.create_guard_condition(self._on_model_loaded)
        self._autostart = self._parameter_table.flag("autostart")
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._start_timer = self.create_timer(0.001, self._start, clock=steady)
        self._watch_timer = self.create_timer(_WATCH_S, self._watch, clock=steady)

    @_logged
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Create the publishers and begin to load the model; does not wait for it."""
        table = self._parameter_table
        self.get_logger().info(f"loading model {table.text('model')}")
        self._session = Session(
            self,
            self._cameras,
            functools.partial(self._make_tracker, table),
            self._model_loaded.trigger,
            self._target_ids,
            table.values,
            self._diagnostics,
            former=self._former_session,
        )
        self._former_session = None
        return super().on_configure(state)

    @_logged
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe to images. Fails while the model is not ready, and may then be repeated."""
        session = self._session
        if session is None:
            return TransitionCallbackReturn.FAILURE
        if not session.wait_until_loaded(self._activation_patience_s):
            self.get_logger().error(
                f"not activated: model {session.model.name} is still loading after "
                f"{session.load_seconds:.1f} s; activate again when diagnostics say it is ready"
            )
            return TransitionCallbackReturn.FAILURE
        if not session.model.ready:
            self.get_logger().error(
                f"not activated: model {session.model.name} cannot be loaded: "
                f"{session.model.error}; {_AFTER_A_FAILURE}"
            )
            return TransitionCallbackReturn.FAILURE
        result = super().on_activate(state)
        session.activate()
        self._subscribe(session)
        self._active = True
        services = (n.resolve_service_name("select_target") for n in self._cameras.values())
        self.get_logger().info(
            f"active: images from {', '.join(source.topic for source in self._image_inputs)}, "
            f"boxes by {', '.join(services)}"
        )
        return result

    @_logged
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe and forget the targets; the model stays loaded."""
        self._stop_images()
        return super().on_deactivate(state)

    @_logged
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release the model and the publishers."""
        self._end_session()
        return super().on_cleanup(state)

    @_logged
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop for good."""
        self.close()
        return super().on_shutdown(state)

    @_logged
    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Return to unconfigured after a transition that failed."""
        self.close()
        return TransitionCallbackReturn.SUCCESS

    def close(self) -> None:
        """Stop the worker before the node is destroyed."""
        self._autostart = False
        self._stop_images()
        self._end_session()

    def _start(self) -> None:
        """Configure once, when the node has begun to spin."""
        self._start_timer.cancel()
        if self._autostart and self._session is None:
            self.trigger_configure()

    def _watch(self) -> None:
        """Give a worker up that has died or hangs; raises NodeFault if the program is to end."""
        session, table = self._session, self._parameter_table
        fault = "" if session is None else session.check_worker(table.number("hang_timeout"))
        if session is None or not fault:
            return
        session.fail(fault)
        self._diagnostics.update()
        if table.flag("exit_on_fault"):
            raise NodeFault(f"{fault}: this program ends, so that it can be started again")
        self.get_logger().fatal(f"{fault}: {_AFTER_A_FAILURE}")

    def _on_model_loaded(self) -> None:
        """Activate when the model is ready, if the node starts by itself."""
        session, autostart = self._session, self._autostart
        if session is None or session.model.loading:
            return
        self._autostart = False
        self._diagnostics.update()
        if autostart and session.model.ready and not self._active:
            self.trigger_activate()

    def _subscribe(self, session: Session) -> None:
        """Subscribe to images and selections."""
        transport = self._parameter_table.text("image_transport")
        for name, node in self._cameras.items():
            self._selection_subscriptions += [
                node.create_subscription(
                    *topic, qos_overriding_options=QoSOverridingOptions.with_default_policies()
                )
                for topic in self._target_services[name].subscriptions()
            ]
            monitor = self._diagnostics.cameras[name].images
            watch = functools.partial(monitor.start, transport=transport)
            receive = session.cameras[name].add_image
            self._image_inputs.append(ImageInput(node, transport, receive, watch))

    def _stop_images(self) -> None:
        for subscription in self._selection_subscriptions:
            self.destroy_subscription(subscription)
        self._selection_subscriptions = []
        for source in self._image_inputs:
            source.close()
        self._image_inputs = []
        for camera in self._diagnostics.cameras.values():
            camera.images.stop()
        if self._active and self._session is not None:
            self._session.deactivate()
        self._active = False

    def _end_session(self) -> None:
        if self._session is not None:
            self._session.close()
            self._former_session, self._session = self._session, None

    def _camera_or_refusal(self, name: str) -> FollowedCamera | Outcome:
        """Return a camera if it takes requests now, otherwise why not."""
        session, code = self._session, SelectionCode.NOT_ACTIVE
        if session is None:
            return Outcome(code, "the tracker is unconfigured: configure and activate the node")
        model, text = session.model, "the tracker is inactive: activate the node"
        if self._active and not model.error:
            return session.cameras[name]
        if model.loading:
            code = SelectionCode.LOADING
            text = (
                f"model {model.name} is still loading ({session.load_seconds:.1f} s so far): "
                "ask again when target_status leaves LOADING"
            )
        elif model.error:
            code = SelectionCode.MODEL_FAILED
            text = f"model {model.name} cannot be used: {model.error}; {_AFTER_A_FAILURE}"
        return Outcome(code, text)

    def _apply(self, values: Mapping[str, Value]) -> None:
        """Use changed parameters; without a session, configure reads them."""
        if self._session is not None:
            self._session.apply(values)


def create_from_parameters(parameters: ParameterTable) -> Tracker:
    """Make the model that the parameters name; what computes it is imported only here."""
    from tracker_ros.registry import create_tracker

    return create_tracker(
        parameters.text("model"),
        device=parameters.text("device"),
        weights=parameters.text("weights") or None,
        backend=parameters.text("backend"),
        precision=parameters.text("precision"),
        engine_cache_dir=parameters.text("engine_cache_dir") or None,
        build_engine=parameters.flag("build_engine"),
        **parse_options(parameters.text("model_options").split()),
    )


def main(args: list[str] | None = None) -> None:
    """Run the node."""
    about = "Follows selected targets through a camera's images; a lifecycle node."
    check_command_line("track", about, TRACK_PARAMETERS, args)
    exit_program(run_node(TrackNode, args))


if __name__ == "__main__":
    main()
