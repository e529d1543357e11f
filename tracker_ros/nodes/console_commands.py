# SPDX-License-Identifier: Apache-2.0
"""What a viewer of the console asks of a tracker, passed on to the tracker's services."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.node import Node
from rclpy.task import Future
from std_msgs.msg import Header
from std_srvs.srv import SetBool, Trigger

from tracker_interfaces.srv import RemoveTarget, SelectTarget
from tracker_ros.nodes.messages import bounding_box_of

__all__ = ["TrackerCommands"]

_ANSWER_S = 20.0
_ACTIVATIONS = 15  # each waits some seconds for the model and fails if that still loads


class TrackerCommands:
    """Asks the services of one tracker.

    A tracker of several cameras has its node a level above the names of each camera.

    Args:
        node: The console's node.
        place: Turns a service's name into that of this camera's.
        on_pause: Called in the event loop when tracking was paused (True) or resumed.
    """

    def __init__(
        self, node: Node, place: Callable[[str], str], on_pause: Callable[[bool], None]
    ) -> None:
        self._node = node
        self._on_pause = on_pause
        self._statuses = node.resolve_topic_name(place("target_statuses"))
        self._names = self._statuses.rpartition("/")[0]
        self._is_one_of_several = False
        above = self._names.rpartition("/")[0]
        clients = {
            "select": (SelectTarget, "select_target"),
            "remove": (RemoveTarget, "remove_target"),
            "clear": (Trigger, "clear_target"),
            "enable": (SetBool, "enable"),
            "set": (SetParameters, "track/set_parameters"),
            "change": (ChangeState, "track/change_state"),
        }
        self._clients = {
            do: node.create_client(kind, place(service)) for do, (kind, service) in clients.items()
        }
        self._clients_above = {
            "set": node.create_client(SetParameters, f"{above}/track/set_parameters"),
            "change": node.create_client(ChangeState, f"{above}/track/change_state"),
        }
        self._commands: dict[str, Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]] = {
            "select": self._select,
            "remove": self._remove,
            "clear": lambda command: self._call("clear", Trigger.Request()),
            "enable": self._enable,
            "model": self._change_model,
        }

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
        on = bool(command["on"])
        answer = await self._call("enable", SetBool.Request(data=on))
        if answer["success"]:
            self._on_pause(not on)
        return answer

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
        for _ in range(_ACTIVATIONS):
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

    def _client(self, do: str) -> Any:
        """Return the client for a command, by where the publisher of the statuses was last."""
        found = self._node.get_publishers_info_by_topic(self._statuses)
        if found:  # nobody publishes them while the tracker is unconfigured
            places = {publisher.node_namespace.rstrip("/") for publisher in found}
            self._is_one_of_several = self._names not in places
        above = self._clients_above.get(do) if self._is_one_of_several else None
        return above or self._clients[do]

    async def _ask(self, do: str, request: Any) -> Any:
        """Call a service from the server's event loop. Returns None if nobody answers in time."""
        client = self._client(do)
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
