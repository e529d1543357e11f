# SPDX-License-Identifier: Apache-2.0
"""The requests to the tracker: four services, and the topics of selections.

A request is answered when the worker has handled it. Services have a callback group of their own,
so that images, timers and transitions go on while a request waits.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.lifecycle import Node as LifecycleNode
from rclpy.qos import QoSProfile
from rclpy.task import Future
from sensor_msgs.msg import Image
from std_srvs.srv import SetBool, Trigger
from vision_msgs.msg import Detection2D

from tracker_interfaces.srv import RemoveTarget, SelectTarget
from tracker_ros.following.live_follower import LiveFollower
from tracker_ros.following.selection import Outcome, Selection, SelectionRefused
from tracker_ros.nodes.messages import (
    selection_from,
    selection_from_detection,
    selection_from_mask,
)
from tracker_ros.nodes.session import Answer, Session

__all__ = ["TargetServices"]

_QUEUE_DEPTH = 256  # requests that arrive at once; the default of 10 loses the others


class TargetServices:
    """Answers requests in every state of the node.

    Args:
        node: The node.
        session: Returns the session that takes requests now, or the refusal of all requests.
    """

    def __init__(self, node: LifecycleNode, session: Callable[[], Session | Outcome]) -> None:
        self._node = node
        self._session = session
        group = ReentrantCallbackGroup()
        for kind, name, callback in (
            (SelectTarget, "select_target", self._on_select),
            (RemoveTarget, "remove_target", self._on_remove),
            (Trigger, "clear_target", self._on_clear),
            (SetBool, "enable", self._on_enable),
        ):
            qos = QoSProfile(depth=_QUEUE_DEPTH)
            node.create_service(kind, name, callback, qos_profile=qos, callback_group=group)

    def subscriptions(self) -> list[tuple[type, str, Callable[[Any], None]]]:
        """Return type, name and callback of the topics that select targets."""
        return [
            (kind, topic + "_append" * append, partial(self._on_topic, read, append))
            for kind, topic, read in (
                (Detection2D, "selection", selection_from_detection),
                (Image, "selection_mask", selection_from_mask),
            )
            for append in (False, True)
        ]

    def _on_topic(
        self, read: Callable[[Any, bool], Selection], append: bool, message: Any
    ) -> None:
        """Select a target from a topic. The outcome is logged, since nobody waits for it."""
        logger = self._node.get_logger()

        def log(outcome: Outcome) -> None:
            if outcome.success:
                logger.info(f"selection from topic: {outcome.message}")
            else:
                logger.warning(
                    f"selection from topic refused, {outcome.code.name}: {outcome.message}"
                )

        self._select(lambda: read(message, append), log)

    async def _on_select(
        self, request: SelectTarget.Request, response: SelectTarget.Response
    ) -> SelectTarget.Response:
        def read() -> Selection:
            return selection_from(request.header, request.bbox, request.label, request.append)

        outcome = await self._await(lambda answer: self._select(read, answer))
        logger = self._node.get_logger()
        if outcome.success:
            logger.info(f"select_target: {outcome.message}")
        elif outcome.code.passes_by_itself:
            # Programs that start with the node ask again and again.
            logger.info(
                f"select_target refused for now: {outcome.message}", throttle_duration_sec=10.0
            )
        else:
            logger.warning(f"select_target refused, {outcome.code.name}: {outcome.message}")
        response.target_id = outcome.target_id
        response.stamp.sec, response.stamp.nanosec = divmod(outcome.stamp_ns, 1_000_000_000)
        response.code = int(outcome.code)
        return _with_outcome(response, outcome)

    async def _on_remove(
        self, request: RemoveTarget.Request, response: RemoveTarget.Response
    ) -> RemoveTarget.Response:
        target_id = request.target_id
        outcome = await self._ask(lambda follower: follower.remove(target_id))
        response.code = int(outcome.code)
        return _with_outcome(response, outcome)

    async def _on_clear(
        self, request: Trigger.Request, response: Trigger.Response
    ) -> Trigger.Response:
        return _with_outcome(response, await self._ask(LiveFollower.clear))

    async def _on_enable(
        self, request: SetBool.Request, response: SetBool.Response
    ) -> SetBool.Response:
        enabled = bool(request.data)
        return _with_outcome(response, await self._ask(lambda follower: follower.enable(enabled)))

    def _select(self, read: Callable[[], Selection], answer: Answer) -> None:
        """Read a selection and have the worker start on it; answer at once if that is refused."""
        session = self._session()
        if isinstance(session, Outcome):
            answer(session)
            return
        try:
            selection = read()
        except SelectionRefused as refusal:
            answer(Outcome(refusal.code, refusal.message))
            return
        session.ask(lambda follower, done: follower.select(selection, done), answer)

    async def _ask(self, job: Callable[[LiveFollower[Image]], Outcome]) -> Outcome:
        """Return the outcome of a job for the worker, or why it cannot be asked."""
        session = self._session()
        if isinstance(session, Outcome):
            return session
        return await self._await(partial(session.ask, lambda follower, done: done(job(follower))))

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
    """Return a response with success and message filled in."""
    response.success = outcome.success
    response.message = outcome.message
    return response
