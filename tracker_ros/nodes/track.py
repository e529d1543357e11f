# SPDX-License-Identifier: Apache-2.0
"""The ``track`` node: follows selected targets through a camera's images.

A lifecycle node. On configure the model is loaded and warmed up in the worker's thread; on
activate, once it is ready, images are subscribed; on deactivate that ends and the target is
forgotten; on cleanup the model is let go.
"""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Callable, Mapping

import rclpy.lifecycle
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection2D

from tracker_ros.following.frames import FrameBuffer
from tracker_ros.following.selection import Outcome, SelectionCode
from tracker_ros.following.target_set import TargetSet
from tracker_ros.following.target_state import StateLimits
from tracker_ros.model_options import parse_options
from tracker_ros.nodes.messages import keep_last, stamp_nanoseconds
from tracker_ros.nodes.monitoring import Diagnostics, InputWatch
from tracker_ros.nodes.node_main import refuse_wrong_transitions, run_node
from tracker_ros.nodes.parameters import (
    TRACK_PARAMETERS,
    ParameterTable,
    Value,
    check_command_line,
    check_scores,
)
from tracker_ros.nodes.publishers import DebugSettings
from tracker_ros.nodes.services import INACTIVE, LOADING, TargetServices
from tracker_ros.nodes.session import Session
from tracker_ros.tracker import Tracker

__all__ = ["TrackNode", "main"]

_ACTIVATE_PATIENCE_S = 4.0  # nav2's lifecycle manager waits 5 s for a transition

Transition = Callable[["TrackNode", LifecycleState], TransitionCallbackReturn]


def _told(transition: Transition) -> Transition:
    """Log what a transition throws (rclpy swallows it) and fail the transition."""

    @functools.wraps(transition)
    def wrapped(self: TrackNode, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            return transition(self, state)
        except Exception as error:  # rclpy would turn it into ERROR without a word
            self.get_logger().error(f"{transition.__name__} failed: {error!r}")
            return TransitionCallbackReturn.FAILURE

    return wrapped


class TrackNode(rclpy.lifecycle.Node):
    """The tracker's node.

    Args:
        make_tracker: Makes a model from the node's parameters; by default
            ``tracker_ros.create_tracker`` with model, its options, weights, device, backend and
            precision.

    Raises:
        NodeStartError: A parameter is refused.
    """

    def __init__(self, make_tracker: Callable[[ParameterTable], Tracker] | None = None) -> None:
        super().__init__("track")
        refuse_wrong_transitions(self)
        self._make_tracker = make_tracker or _create_tracker
        self._session: Session | None = None
        self._active = False
        self._subscriptions_made: list[Subscription] = []
        self._parameter_table = ParameterTable(
            self,
            TRACK_PARAMETERS,
            cross_check=check_scores,
            configured=lambda: self._session is not None,
            changed=self._apply,
        )
        table = self._parameter_table
        self._ids = itertools.count(1)
        self._targets = self._new_targets()
        self._buffer = self._new_buffer()
        self._watch = InputWatch(self)
        self._diagnostics = Diagnostics(
            self, table.number("diagnostics_rate"), self._watch, lambda: self._active
        )
        self._services_of_target = TargetServices(self, lambda: self._session, self._refusal)
        self._model_done = self.create_guard_condition(self._on_model_done)
        self._starting = table.flag("autostart")
        self._start_timer = self.create_timer(
            0.001, self._autostart, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )

    @_told
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Make the publishers and begin to load the model; does not wait for it."""
        table = self._parameter_table
        self.get_logger().info(f"loading model {table.text('model')}")
        # New ones: a worker of the last session that is still busy must not change this one's.
        self._targets = self._new_targets()
        self._buffer = self._new_buffer()
        self._session = Session(
            self,
            table.text("model"),
            functools.partial(self._make_tracker, table),
            self._model_done.trigger,
            self._buffer,
            self._targets,
            self._watch,
            self._diagnostics,
            DebugSettings.of(table.values),
        )
        return super().on_configure(state)

    @_told
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe, if the model is ready; fails, and may be tried again, while it is not."""
        session = self._session
        if session is None:
            return TransitionCallbackReturn.FAILURE
        if not session.wait_until_loaded(_ACTIVATE_PATIENCE_S):
            self.get_logger().error(
                f"not activated: model {session.model.name} is still loading after "
                f"{session.load_seconds:.1f} s; activate again when diagnostics say it is ready"
            )
            return TransitionCallbackReturn.FAILURE
        if not session.model.ready:
            self.get_logger().error(
                f"not activated: model {session.model.name} cannot be loaded: "
                f"{session.model.error}; clean up, correct the parameters, configure again"
            )
            return TransitionCallbackReturn.FAILURE
        result = super().on_activate(state)
        session.activate()
        self._subscribe()
        self._active = True
        self.get_logger().info(
            f"active: images from {self.resolve_topic_name('image')}, "
            f"boxes by {self.resolve_service_name('select_target')}"
        )
        return result

    @_told
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe and forget the target; the model stays loaded."""
        self._stop_images()
        return super().on_deactivate(state)

    @_told
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Let go of the model and the publishers."""
        self._end_session()
        return super().on_cleanup(state)

    @_told
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop for good."""
        self._stop_images()
        self._end_session()
        return super().on_shutdown(state)

    @_told
    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Go back to unconfigured after a transition that went wrong."""
        self._stop_images()
        self._end_session()
        return TransitionCallbackReturn.SUCCESS

    def close(self) -> None:
        """End the worker before the node is destroyed."""
        self._starting = False
        self._stop_images()
        self._end_session()

    def _autostart(self) -> None:
        """Configure, once, when the node has begun to spin."""
        self._start_timer.cancel()
        if self._starting and self._session is None:
            self.trigger_configure()

    def _on_model_done(self) -> None:
        """Activate when the model is ready, if the node starts by itself."""
        session, starting = self._session, self._starting
        if session is None or session.model.loading:
            return
        self._starting = False
        self._diagnostics.update()
        if starting and session.model.ready and not self._active:
            self.trigger_activate()

    def _subscribe(self) -> None:
        """Subscribe to images and selections."""
        camera, doors = keep_last(1, reliable=False), self._services_of_target
        self._subscriptions_made = [
            self.create_subscription(
                kind,
                topic,
                callback,
                qos,
                qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            )
            for kind, topic, callback, qos in (
                (Image, "image", self._on_image, camera),
                (Detection2D, "selection", doors.on_selection, keep_last(1)),
                (Image, "selection_mask", doors.on_selection_mask, keep_last(1)),
            )
        ]
        self._watch.start(self.resolve_topic_name("image"), camera)

    def _on_image(self, message: Image) -> None:
        """Keep the image and leave it to the worker; nothing else happens here."""
        session = self._session
        if session is None:
            return
        stamp_ns = stamp_nanoseconds(message.header)
        sequence = self._buffer.sequence
        frame = self._buffer.add(stamp_ns, message, len(message.data), message.header.frame_id)
        if self._buffer.sequence != sequence:
            self.get_logger().info("image stamps jumped back: a new sequence begins")
        session.put(frame)
        self._watch.image_came(stamp_ns)

    def _stop_images(self) -> None:
        for subscription in self._subscriptions_made:
            self.destroy_subscription(subscription)
        self._subscriptions_made = []
        self._watch.stop()
        if self._active and self._session is not None:
            self._session.deactivate()
        self._active = False

    def _new_targets(self) -> TargetSet:
        return TargetSet(_limits(self._parameter_table.values), self._ids)

    def _new_buffer(self) -> FrameBuffer[Image]:
        table = self._parameter_table
        return FrameBuffer(
            table.number("buffer_seconds"), _bytes(table.number("buffer_megabytes"))
        )

    def _end_session(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

    def _refusal(self) -> Outcome | None:
        """Return why requests are refused now, with the remedy; None if they are not."""
        session = self._session
        if self._active:
            return None
        if session is None:
            return Outcome(
                SelectionCode.NOT_ACTIVE,
                f"{INACTIVE} (unconfigured): configure and activate the node",
            )
        if session.model.loading:
            return Outcome(
                SelectionCode.LOADING,
                f"model {session.model.name} {LOADING} ({session.load_seconds:.1f} s so "
                "far): ask again when target_status leaves LOADING",
            )
        if session.model.error:
            return Outcome(
                SelectionCode.MODEL_FAILED,
                f"model {session.model.name} cannot be loaded: {session.model.error}: clean up, "
                "correct the parameters, configure again",
            )
        return Outcome(SelectionCode.NOT_ACTIVE, f"{INACTIVE}: activate the node")

    def _apply(self, values: Mapping[str, Value]) -> None:
        """Have the worker put changed parameters into effect; configuring reads them anew."""
        session = self._session
        if session is None:
            return

        def apply() -> None:
            session.follower.set_limits(_limits(values))
            session.follower.set_buffer_limits(
                float(values["buffer_seconds"]), _bytes(float(values["buffer_megabytes"]))
            )
            session.outputs.settings = DebugSettings.of(values)
            session.follower.explain = session.outputs.settings.token_mask

        session.post(apply)


def _limits(values: Mapping[str, Value]) -> StateLimits:
    return StateLimits(
        float(values["score_found"]), float(values["score_lost"]), float(values["lost_after"])
    )


def _bytes(megabytes: float) -> int:
    return round(megabytes * 1e6)


def _create_tracker(parameters: ParameterTable) -> Tracker:
    """Make the model that the parameters name; torch is imported only here."""
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
    sys.exit(run_node(TrackNode, args))


if __name__ == "__main__":
    main()
