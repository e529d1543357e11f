# SPDX-License-Identifier: Apache-2.0
"""The doors to the tracker: four services, and the topics ``selection`` and ``selection_mask``.

Each is answered when the worker has done it. The executor does not wait meanwhile: images keep
coming in, because the frames after the selected one are needed to catch up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from rclpy.lifecycle import Node as LifecycleNode
from rclpy.task import Future
from sensor_msgs.msg import Image
from std_srvs.srv import SetBool, Trigger
from vision_msgs.msg import Detection2D

from tracker_interfaces.srv import RemoveTarget, SelectTarget
from tracker_ros.following.selection import (
    Selection,
    SelectionOutcome,
    SelectionRefused,
    passes_by_itself,
    selection_from,
    selection_from_mask,
)
from tracker_ros.nodes.session import Session

__all__ = ["TargetServices"]

R = TypeVar("R")

_BROKEN_OFF = "the request was broken off: see the node's log, and ask again"


class TargetServices:
    """Answers requests in every state of the node.

    Args:
        node: The node.
        session: The session now, None while the node is unconfigured.
        refusal: Why the node takes no requests now; empty when it does.
    """

    def __init__(
        self,
        node: LifecycleNode,
        session: Callable[[], Session | None],
        refusal: Callable[[], str],
    ) -> None:
        self._node = node
        self._session = session
        self._refusal = refusal
        node.create_service(SelectTarget, "select_target", self._on_select)
        node.create_service(RemoveTarget, "remove_target", self._on_remove)
        node.create_service(Trigger, "clear_target", self._on_clear)
        node.create_service(SetBool, "enable", self._on_enable)

    def on_selection(self, message: Detection2D) -> None:
        """Take a box from the ``selection`` topic; a refusal is logged, for nobody waits."""
        label = message.results[0].hypothesis.class_id if message.results else ""
        self._take(lambda: selection_from(message.header, message.bbox, label))

    def on_selection_mask(self, message: Image) -> None:
        """Take a mask from the ``selection_mask`` topic, in the same way."""
        self._take(lambda: selection_from_mask(message))

    def _take(self, read: Callable[[], Selection]) -> None:
        logger = self._node.get_logger()

        def told(outcome: SelectionOutcome | None) -> None:
            if outcome is None or not outcome.success:
                reason = outcome.message if outcome else _BROKEN_OFF
                logger.warning(f"selection from topic refused: {reason}")
            else:
                logger.info(f"selection from topic: {outcome.message}")

        reason, selection = self._read(read)
        session = self._session()
        if selection is None or session is None:
            told(SelectionOutcome(False, reason))
            return
        follower = session.follower
        session.ask(lambda: follower.select(selection), told)

    async def _on_select(
        self, request: SelectTarget.Request, response: SelectTarget.Response
    ) -> SelectTarget.Response:
        reason, selection = self._read(
            lambda: selection_from(request.header, request.bbox, request.label, request.append)
        )
        session = self._session()
        if selection is None or session is None:
            outcome: SelectionOutcome | None = SelectionOutcome(False, reason)
        else:
            follower = session.follower
            outcome = await self._ask(session, lambda: follower.select(selection))
        outcome = outcome or SelectionOutcome(False, _BROKEN_OFF)
        logger = self._node.get_logger()
        if outcome.success:
            logger.info(f"select_target: {outcome.message}")
        elif passes_by_itself(outcome.message):
            # Who asks while the node starts asks again and again.
            logger.info(
                f"select_target refused for now: {outcome.message}", throttle_duration_sec=10.0
            )
        else:
            logger.warning(f"select_target refused: {outcome.message}")
        response.success = outcome.success
        response.message = outcome.message
        response.target_id = outcome.target_id
        response.stamp.sec, response.stamp.nanosec = divmod(outcome.stamp_ns, 1_000_000_000)
        return response

    async def _on_clear(
        self, request: Trigger.Request, response: Trigger.Response
    ) -> Trigger.Response:
        session = self._session()
        response.message = self._refusal()
        if response.message or session is None:
            response.success = False
            return response
        old = await self._ask(session, session.follower.clear)
        response.success = old is not None
        if old is None:
            response.message = _BROKEN_OFF
        elif old:
            response.message = f"target{'s' if old[1:] else ''} {', '.join(old)} cleared"
        else:
            response.message = "there was no target to clear"
        return response

    async def _on_remove(
        self, request: RemoveTarget.Request, response: RemoveTarget.Response
    ) -> RemoveTarget.Response:
        session = self._session()
        response.success, response.message = False, self._refusal()
        if response.message or session is None:
            return response
        follower, target_id = session.follower, request.target_id
        answer = await self._ask(session, lambda: follower.remove(target_id))
        response.success, response.message = answer or (False, _BROKEN_OFF)
        return response

    async def _on_enable(
        self, request: SetBool.Request, response: SetBool.Response
    ) -> SetBool.Response:
        session = self._session()
        response.message = self._refusal()
        if response.message or session is None:
            response.success = False
            return response
        follower, enabled = session.follower, bool(request.data)

        def switch() -> bool:
            follower.enable(enabled)
            return True

        response.success = bool(await self._ask(session, switch))
        words = "tracking is enabled" if enabled else "tracking is paused, the target is kept"
        response.message = words if response.success else _BROKEN_OFF
        return response

    def _read(self, read: Callable[[], Selection]) -> tuple[str, Selection | None]:
        """The request, or the reason why it is refused outright."""
        reason = self._refusal()
        if reason:
            return reason, None
        try:
            return "", read()
        except SelectionRefused as error:
            return str(error), None

    async def _ask(self, session: Session, job: Callable[[], R]) -> R | None:
        """Await what the worker makes of ``job``."""
        executor = self._node.executor
        future: Future = Future(executor=executor)

        def answer(result: R | None) -> None:
            future.set_result(result)
            if executor is not None:
                executor.wake()  # else a waiting coroutine is looked at only with the next event

        session.ask(job, answer)
        return await future
