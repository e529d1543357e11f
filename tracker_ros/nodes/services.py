# SPDX-License-Identifier: Apache-2.0
"""The requests to the tracker: its services, and the topics of selections and detections.

A request is answered when the worker has handled it. Each service has a callback group of its own,
so that images, timers and transitions go on while a request waits.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from rclpy.lifecycle import Node as LifecycleNode
from rclpy.qos import QoSProfile
from rclpy.task import Future
from sensor_msgs.msg import Image
from std_srvs.srv import SetBool, Trigger
from vision_msgs.msg import Detection2D, Detection2DArray

from tracker_interfaces.srv import RemoveTarget, SelectFromDetections, SelectTarget
from tracker_ros.following.detections import choose_detection
from tracker_ros.following.live_follower import LiveFollower
from tracker_ros.following.requests import MAX_WAITING_REQUESTS, Answer
from tracker_ros.following.selection import (
    Outcome,
    Selection,
    SelectionCode,
    SelectionRefused,
)
from tracker_ros.nodes.answer_pace import AnswerPace, BoundedCallbackGroup
from tracker_ros.nodes.followed_camera import FollowedCamera
from tracker_ros.nodes.messages import (
    candidate_from,
    keep_last,
    selection_from,
    selection_from_detection,
    selection_from_mask,
    stamp_message,
)
from tracker_ros.nodes.monitoring import LogLimiter
from tracker_ros.quoting import describe_error

__all__ = ["TargetServices"]

_QUEUE_DEPTH = 2000  # requests that arrive at once; the default of 10 loses the others
_MAX_PACED = 16
_REFUSAL_LOG_S = 10.0


class TargetServices:
    """Answers requests in every state of the node.

    Args:
        node: The node, or its part for one camera.
        camera: Returns the camera if it takes requests now, or the refusal of all requests.
    """

    def __init__(
        self, node: LifecycleNode, camera: Callable[[], FollowedCamera | Outcome]
    ) -> None:
        self._node = node
        self._camera = camera
        self._logged = LogLimiter(_REFUSAL_LOG_S)
        self._detections: Detection2DArray | None = None
        for kind, name, callback in (
            (SelectTarget, "select_target", self._on_select),
            (SelectFromDetections, "select_from_detections", self._on_select_from_detections),
            (RemoveTarget, "remove_target", self._job(lambda f, r: f.remove(r.target_id))),
            (Trigger, "clear_target", self._job(lambda f, r: f.clear())),
            (SetBool, "enable", self._job(lambda f, r: f.enable(r.data))),
        ):
            qos = QoSProfile(depth=_QUEUE_DEPTH)
            answering = self._answering(callback, AnswerPace(node))
            group = BoundedCallbackGroup(MAX_WAITING_REQUESTS + _MAX_PACED)
            service = node.create_service(
                kind, name, answering, qos_profile=qos, callback_group=group
            )
            if kind is SelectTarget:
                _publish_calls(node, service)

    def subscriptions(self) -> list[tuple[type, str, Callable[[Any], None], QoSProfile]]:
        """Return type, name, callback and quality of the topics of selections and detections."""
        selections = [
            (kind, topic + "_append" * append, partial(self._on_topic, read, append), keep_last(1))
            for kind, topic, read in (
                (Detection2D, "selection", selection_from_detection),
                (Image, "selection_mask", selection_from_mask),
            )
            for append in (False, True)
        ]
        quality = keep_last(1, reliable=False)
        return [*selections, (Detection2DArray, "detections", self._on_detections, quality)]

    def _on_detections(self, message: Detection2DArray) -> None:
        self._detections = message
        camera = self._camera()
        if not isinstance(camera, Outcome):
            camera.note_detections([candidate_from(each) for each in message.detections])

    def _on_topic(
        self, read: Callable[[Any, bool], Selection], append: bool, message: Any
    ) -> None:
        """Select a target from a topic. The outcome is logged, since nobody waits for it."""
        self._select(lambda: read(message, append), partial(self._log, "selection from topic"))

    async def _on_select(
        self, request: SelectTarget.Request, response: SelectTarget.Response
    ) -> SelectTarget.Response:
        def read() -> Selection:
            return selection_from(request.header, request.bbox, request.label, request.append)

        outcome = await self._await(lambda answer: self._select(read, answer))
        self._log("select_target", outcome)
        response.target_id = outcome.target_id
        response.stamp = stamp_message(outcome.stamp_ns)
        return _with_outcome(response, outcome)

    async def _on_select_from_detections(
        self, request: SelectFromDetections.Request, response: SelectFromDetections.Response
    ) -> SelectFromDetections.Response:
        chosen = Detection2D()

        def read() -> Selection:
            nonlocal chosen
            found = self._detections
            if found is None:
                raise SelectionRefused(
                    SelectionCode.NO_DETECTION,
                    "no detections have come on "
                    f"{self._node.resolve_topic_name('detections')}: start the detector, or remap",
                )
            candidates = [candidate_from(detection) for detection in found.detections]
            index = choose_detection(
                candidates,
                request.rule,
                request.class_id,
                request.min_score,
                (request.point.x, request.point.y),
            )
            chosen = found.detections[index]
            label = request.label or request.class_id or candidates[index].class_id
            return selection_from(found.header, chosen.bbox, label, request.append)

        outcome = await self._await(lambda answer: self._select(read, answer))
        self._log("select_from_detections", outcome)
        response.target_id = outcome.target_id
        response.stamp = stamp_message(outcome.stamp_ns)
        response.detection = chosen
        return _with_outcome(response, outcome)

    def _log(self, source: str, outcome: Outcome) -> None:
        """Log what became of a selection; repeated refusals, as of a detector, only now and then.

        Programs that start with the node ask again and again, and are told how long it takes.
        """
        if not self._node.context.ok():  # ends; rcl would complain that /rosout is gone
            return
        logger = self._node.get_logger()
        kind = f"{source} refused, {outcome.code.name}"
        refused = f"{kind}: {outcome.message}"
        if outcome.success:
            logger.info(f"{source}: {outcome.message}")
        elif outcome.code.passes_by_itself:
            if self._logged.allows(kind):
                logger.info(refused)
        elif self._logged.allows(refused):
            logger.warning(refused)

    def _select(self, read: Callable[[], Selection], answer: Answer) -> None:
        """Read a selection and have the worker start on it; answer at once if that is refused."""
        camera = self._camera()
        if isinstance(camera, Outcome):
            answer(camera)
            return
        try:
            selection = read()
        except SelectionRefused as refusal:
            answer(Outcome(refusal.code, refusal.message))
            return
        camera.ask(lambda follower, done: follower.select(selection, done), answer)

    def _job(self, job: Callable[[LiveFollower[Any], Any], Outcome]) -> Callable[..., Any]:
        """Return a service callback that answers with the outcome of a job for the worker."""

        async def on_request(request: Any, response: Any) -> Any:
            camera = self._camera()
            if isinstance(camera, Outcome):
                return _with_outcome(response, camera)
            asked = partial(camera.ask, lambda follower, answer: answer(job(follower, request)))
            return _with_outcome(response, await self._await(asked))

        return on_request

    def _answering(self, callback: Callable[..., Any], pace: AnswerPace) -> Callable[..., Any]:
        """Return a service callback that answers whatever happens, when its turn has come."""

        async def on_request(request: Any, response: Any) -> Any:
            try:
                response = await callback(request, response)
            except Exception as error:  # no request may end the node
                text = f"the request failed: {describe_error(error)}"
                self._node.get_logger().error(text)
                response = _with_outcome(response, Outcome(SelectionCode.INTERRUPTED, text))
            await pace.turn()
            return response

        return on_request

    async def _await(self, begin: Callable[[Answer], None]) -> Outcome:
        """Call ``begin`` with an answer, and return the outcome that is passed to the answer."""
        executor = self._node.executor
        future: Future = Future(executor=executor)

        def answer(outcome: Outcome) -> None:
            future.set_result(outcome)
            if executor is not None:
                executor.wake()  # otherwise the coroutine continues only with the next event

        begin(answer)
        outcome: Outcome = await future
        return outcome


def _with_outcome(response: Any, outcome: Outcome) -> Any:
    """Return a response with success, message and, where it has one, the code filled in."""
    response.success = outcome.success
    response.message = outcome.message
    if hasattr(response, "code"):
        response.code = int(outcome.code)
    return response


def _publish_calls(node: LifecycleNode, service: Any) -> None:
    """Publish the calls of a service, so that a bag may hold them; Humble cannot.

    ``tracker-ros bag`` starts targets from them.
    """
    try:
        from rclpy.service_introspection import ServiceIntrospectionState
    except ImportError:
        return
    service.configure_introspection(
        node.get_clock(), keep_last(10), ServiceIntrospectionState.CONTENTS
    )
