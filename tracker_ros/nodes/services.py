# SPDX-License-Identifier: Apache-2.0
"""The doors to the tracker: four services, and the topics ``selection`` and ``selection_mask``.

Each is answered when the worker has done it. The executor does not wait meanwhile: images keep
coming in, because the frames after the selected one are needed to catch up.
"""

from __future__ import annotations

from collections.abc import Callable

from rclpy.lifecycle import Node as LifecycleNode
from rclpy.task import Future
from sensor_msgs.msg import Image
from std_srvs.srv import SetBool, Trigger
from vision_msgs.msg import Detection2D

from tracker_interfaces.srv import RemoveTarget, SelectTarget
from tracker_ros.following.live_follower import LiveFollower
from tracker_ros.following.selection import Outcome, Selection, SelectionCode, SelectionRefused
from tracker_ros.nodes.messages import selection_from, selection_from_mask
from tracker_ros.nodes.session import Session

__all__ = ["TargetServices"]

Answer = Callable[[Outcome], None]

INACTIVE = "the tracker is inactive"
LOADING = "is still loading"


def passes_by_itself(message: str) -> bool:
    """Whether a refusal with this message is only a matter of waiting while a node starts."""
    return any(words in message for words in (INACTIVE, LOADING, "no image has arrived"))


class TargetServices:
    """Answers requests in every state of the node.

    Args:
        node: The node.
        session: The session now, None while the node is unconfigured.
        refusal: Why the node takes no requests now; None when it does.
    """

    def __init__(
        self,
        node: LifecycleNode,
        session: Callable[[], Session | None],
        refusal: Callable[[], Outcome | None],
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

        def log(outcome: Outcome) -> None:
            if outcome.success:
                logger.info(f"selection from topic: {outcome.message}")
            else:
                logger.warning(f"selection from topic refused: {outcome.message}")

        self._select(read, log)

    async def _on_select(
        self, request: SelectTarget.Request, response: SelectTarget.Response
    ) -> SelectTarget.Response:
        outcome = await self._await(
            lambda answer: self._select(
                lambda: selection_from(
                    request.header, request.bbox, request.label, request.append
                ),
                answer,
            )
        )
        logger = self._node.get_logger()
        if outcome.success:
            logger.info(f"select_target: {outcome.message}")
        elif outcome.code.passes_by_itself:
            # Programs that start with the node ask again and again.
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
        outcome = await self._ask(lambda follower: follower.clear())
        response.success, response.message = outcome.success, outcome.message
        return response

    async def _on_remove(
        self, request: RemoveTarget.Request, response: RemoveTarget.Response
    ) -> RemoveTarget.Response:
        target_id = request.target_id
        outcome = await self._ask(lambda follower: follower.remove(target_id))
        response.success, response.message = outcome.success, outcome.message
        return response

    async def _on_enable(
        self, request: SetBool.Request, response: SetBool.Response
    ) -> SetBool.Response:
        enabled = bool(request.data)
        outcome = await self._ask(lambda follower: follower.enable(enabled))
        response.success, response.message = outcome.success, outcome.message
        return response

    def _select(self, read: Callable[[], Selection], answer: Answer) -> None:
        """Read a selection and have the worker start on it, or answer why not."""
        refused, session = self._refusal(), self._session()
        if refused is not None or session is None:
            answer(refused or Outcome(SelectionCode.NOT_ACTIVE, INACTIVE))
            return
        try:
            selection = read()
        except SelectionRefused as refusal:
            answer(Outcome(refusal.code, refusal.message))
            return
        follower = session.follower
        session.ask(lambda done: follower.select(selection, done), answer)

    async def _ask(self, job: Callable[[LiveFollower[Image]], Outcome]) -> Outcome:
        """Await the outcome of a job for the worker, or return why there is none."""
        refused, session = self._refusal(), self._session()
        if refused is not None or session is None:
            return refused or Outcome(SelectionCode.NOT_ACTIVE, INACTIVE)
        follower = session.follower
        return await self._await(
            lambda answer: session.ask(lambda done: done(job(follower)), answer)
        )

    async def _await(self, begin: Callable[[Answer], None]) -> Outcome:
        """Await what is passed to the answer that ``begin`` is given."""
        executor = self._node.executor
        future: Future = Future(executor=executor)

        def answer(outcome: Outcome) -> None:
            future.set_result(outcome)
            if executor is not None:
                executor.wake()  # otherwise the coroutine continues only with the next event

        begin(answer)
        outcome: Outcome = await future
        return outcome
