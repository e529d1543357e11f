# SPDX-License-Identifier: Apache-2.0
"""The camera component: heartbeats, what the camera can do, tracking by command, its results.

Nothing here knows of sockets, threads or ROS. Messages come in by `receive`, time by `tick`, the
tracker's results by `update` and `locate`; times are in seconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

from tracker_ros.following.selection import Outcome, SelectionCode
from tracker_ros.geometry import Box
from tracker_ros.mavlink.camera_messages import CameraSettings, camera_information, heartbeat
from tracker_ros.mavlink.commands import (
    GIVE_UP_S,
    Answer,
    Command,
    CommandDesk,
    CommandResult,
    Handler,
)
from tracker_ros.mavlink.dialect import (
    AUTOPILOT,
    DEVICE_NOT_OF_THIS_COMPONENT,
    TARGET_RELATIVE_ID,
    load_dialect,
)
from tracker_ros.mavlink.links import Peer
from tracker_ros.mavlink.streams import MessageStreams
from tracker_ros.mavlink.tracked_area import area_of_point, area_of_rectangle
from tracker_ros.mavlink.tracking_messages import (
    TargetPosition,
    TrackView,
    geo_status,
    image_status,
    relative_position,
)
from tracker_ros.mavlink.vehicle import GeoPosition, VehicleState, quaternion_of_angles

OutcomeAnswer = Callable[[Outcome], None]

_HEARTBEAT_S = 1.0
_SILENT_S = 0.5
_STALE_S = 1.0
_ASK_AUTOPILOT_S = 5.0
_ATTITUDE_US, _POSITION_US = 50_000, 200_000
_LONGEST_S = 3600.0

_RESULTS = {
    SelectionCode.OK: CommandResult.ACCEPTED,
    **dict.fromkeys(
        (
            SelectionCode.NOT_ACTIVE,
            SelectionCode.LOADING,
            SelectionCode.NO_IMAGE,
            SelectionCode.BUSY,
            SelectionCode.STALE_STAMP,
            SelectionCode.FUTURE_STAMP,
            SelectionCode.UNKNOWN_STAMP,
            SelectionCode.INTERRUPTED,
        ),
        CommandResult.TEMPORARILY_REJECTED,
    ),
    **dict.fromkeys(
        (SelectionCode.INVALID_BOX, SelectionCode.OUTSIDE_IMAGE), CommandResult.DENIED
    ),
}
"""Results of a selection; those of other codes are FAILED."""


class Sender(NamedTuple):
    """Who sent a message: the peer that it came from, and its system and component."""

    peer: Peer
    system: int
    component: int

    def __str__(self) -> str:
        return f"{self.peer.name} ({self.system}/{self.component})"


class TrackerPort(Protocol):
    """What the camera asks of the tracker. Answers may come at once or later."""

    def select(self, box: Box, answer: OutcomeAnswer) -> None:
        """Follow a box ``(x, y, w, h)``, pixels, on the image that the operator saw."""

    def clear(self, answer: OutcomeAnswer) -> None:
        """Follow nothing."""


class CameraComponent:
    """A MAVLink camera that tracks.

    `peers` returns the programs that can be spoken to now; `complain` is called with what is
    refused or ignored.
    """

    def __init__(
        self,
        settings: CameraSettings,
        tracker: TrackerPort,
        peers: Callable[[], Iterable[Peer]],
        complain: Callable[[str], None],
        start: float = 0.0,
    ) -> None:
        self._settings = settings
        self._tracker = tracker
        self._peers = peers
        self._complain = complain
        self._start = self._now = start
        self._dialect = load_dialect()
        self._vehicle = VehicleState()
        self._streams: MessageStreams[Peer] = MessageStreams()
        self._autopilot: Peer | None = None
        self._view = TrackView()
        self._target: TargetPosition | None = None
        self._point_target = ""
        self._selecting_until = -math.inf
        self._updated = -math.inf
        self._next_heartbeat = start
        self._next_request = start
        d = self._dialect
        self._messages: dict[int, Callable[[], Any | None]] = {
            d.MAVLINK_MSG_ID_HEARTBEAT: lambda: heartbeat(self._view),
            d.MAVLINK_MSG_ID_CAMERA_INFORMATION: self._information,
            d.MAVLINK_MSG_ID_CAMERA_TRACKING_IMAGE_STATUS: self._image_status,
        }
        if settings.geo_status:
            self._messages[d.MAVLINK_MSG_ID_CAMERA_TRACKING_GEO_STATUS] = self._geo_status
        if settings.target_relative:
            self._messages[TARGET_RELATIVE_ID] = self._relative
        self._streamed = set(self._messages) - {d.MAVLINK_MSG_ID_HEARTBEAT}
        once: dict[int, Handler] = {
            d.MAV_CMD_CAMERA_TRACK_POINT: self._track_point,
            d.MAV_CMD_CAMERA_TRACK_RECTANGLE: self._track_rectangle,
            d.MAV_CMD_CAMERA_STOP_TRACKING: self._stop,
        }
        self._desk = CommandDesk(
            {
                **once,
                d.MAV_CMD_SET_MESSAGE_INTERVAL: self._set_interval,
                d.MAV_CMD_GET_MESSAGE_INTERVAL: self._get_interval,
                d.MAV_CMD_REQUEST_MESSAGE: self._request_message,
                d.MAV_CMD_REQUEST_CAMERA_INFORMATION: self._request_information,
            },
            once=frozenset(once),
            acknowledge=self._acknowledge,
            complain=complain,
        )

    def receive(self, message: Any, peer: Peer, now: float) -> None:
        """Take a message that came from a peer."""
        self._now = now
        kind = message.get_type()
        sender = Sender(peer, message.get_srcSystem(), message.get_srcComponent())
        own_vehicle = sender[1:] == (self._settings.system_id, AUTOPILOT)
        if kind in ("COMMAND_LONG", "COMMAND_INT"):
            self._take_command(message, sender)
        elif kind == "HEARTBEAT" and own_vehicle:
            self._autopilot = peer
        elif kind == "ATTITUDE" and own_vehicle:
            angles = (message.roll, message.pitch, message.yaw)
            self._vehicle.set_attitude(now, quaternion_of_angles(*angles))
        elif kind == "ATTITUDE_QUATERNION" and own_vehicle:
            self._vehicle.set_attitude(now, (message.q1, message.q2, message.q3, message.q4))
        elif kind == "GLOBAL_POSITION_INT" and own_vehicle:
            self._vehicle.set_position(
                now,
                GeoPosition(message.lat / 1e7, message.lon / 1e7, message.alt / 1e3),
                (message.vx / 100, message.vy / 100, message.vz / 100),
            )

    def update(self, view: TrackView, now: float) -> None:
        """Take what the tracker sees in an image, and send what is due."""
        self._now = now
        self._view = view
        self._updated = now
        self._send_streams()

    def locate(self, target: TargetPosition, now: float) -> None:
        """Take where the target is."""
        self._now = now
        self._target = target
        if self._settings.target_relative and self._autopilot is not None:
            message = self._relative()
            if message is not None:
                self._autopilot.send(message)

    def tick(self, now: float) -> None:
        """Send heartbeats, progress and, while no images come, the streams. Call it often."""
        self._now = now
        self._desk.tick(now)
        if now >= self._next_heartbeat:
            self._next_heartbeat = now + _HEARTBEAT_S
            for peer in self._peers():
                peer.send(heartbeat(self._view))
        if now - self._updated > _SILENT_S:
            self._send_streams()
        if now - self._updated > _STALE_S and self._view.alive:
            self._view = TrackView(size=self._view.size)
        self._ask_autopilot()

    def forget(self, peer: Peer) -> None:
        """Send nothing more to a peer."""
        self._streams.forget(peer)
        if self._autopilot is peer:
            self._autopilot = None

    def _send_streams(self) -> None:
        for peer, number in self._streams.take_due(self._now):
            message = self._messages[number]()
            if message is not None:
                peer.send(message)

    def _ask_autopilot(self) -> None:
        """Ask the autopilot for attitude and position while they are needed and do not come."""
        settings = self._settings
        needed = settings.geo_status or settings.target_relative
        if not needed or self._autopilot is None or self._now < self._next_request:
            return
        self._next_request = self._now + _ASK_AUTOPILOT_S
        d = self._dialect
        missing = []
        if self._vehicle.attitude_at(self._now) is None:
            missing.append((d.MAVLINK_MSG_ID_ATTITUDE_QUATERNION, _ATTITUDE_US))
        if settings.geo_status and self._vehicle.position_at(self._now) is None:
            missing.append((d.MAVLINK_MSG_ID_GLOBAL_POSITION_INT, _POSITION_US))
        for number, interval in missing:
            self._autopilot.send(
                d.MAVLink_command_long_message(
                    settings.system_id,
                    AUTOPILOT,
                    d.MAV_CMD_SET_MESSAGE_INTERVAL,
                    0,
                    *(float(number), float(interval), 0.0, 0.0, 0.0, 0.0, 0.0),
                )
            )

    def _take_command(self, message: Any, sender: Sender) -> None:
        """Take a command if it is for this camera; those for others pass by here, too."""
        own = (self._settings.system_id, self._settings.component_id)
        system, component = message.target_system, message.target_component
        if system not in (own[0], 0) or component not in (own[1], 0):
            return
        is_int = message.get_type() == "COMMAND_INT"
        last = (message.x, message.y, message.z) if is_int else ()
        params = [message.param1, message.param2, message.param3, message.param4]
        params += last or (message.param5, message.param6, message.param7)
        command = Command(
            message.command,
            tuple(map(float, params)),
            sender,
            message.get_seq(),
            0 if is_int else message.confirmation,
            broadcast=component == 0,
        )
        self._desk.receive(command, self._now)

    def _acknowledge(self, command: Command, result: CommandResult, progress: int) -> None:
        to: Sender = command.sender
        to.peer.send(
            self._dialect.MAVLink_command_ack_message(
                command.number, int(result), progress, 0, to.system, to.component
            )
        )

    def _track_rectangle(self, command: Command, answer: Answer) -> None:
        corners, camera = command.params[:4], command.params[4]
        self._track(answer, camera, lambda size: area_of_rectangle(corners, size), False)

    def _track_point(self, command: Command, answer: Answer) -> None:
        point, camera = command.params[:3], command.params[3]
        least = self._settings.point_size
        self._track(answer, camera, lambda size: area_of_point(point, size, least), True)

    def _track(
        self,
        answer: Answer,
        camera_id: float,
        area: Callable[[tuple[int, int]], Box],
        by_point: bool,
    ) -> None:
        """Have an area followed; ``area`` returns it for a size of the image."""
        if not self._is_meant(camera_id, answer):
            return
        size = self._view.size
        try:
            box = area(size or (1, 1))
        except ValueError as error:
            self._deny(answer, str(error))
            return
        if size is None or self._now < self._selecting_until:
            why = "another selection is in progress"
            if size is None:
                why = "neither camera_info nor image has come"
            self._complain(f"cannot track yet: {why}")
            answer(CommandResult.TEMPORARILY_REJECTED)
            return
        self._selecting_until = self._now + GIVE_UP_S

        def selected(outcome: Outcome) -> None:
            self._selecting_until = -math.inf
            if outcome.success:
                self._point_target = outcome.target_id if by_point else ""
            else:
                self._complain(f"selection refused, {outcome.code.name}: {outcome.message}")
            answer(_RESULTS.get(outcome.code, CommandResult.FAILED))

        self._tracker.select(box, selected)

    def _stop(self, command: Command, answer: Answer) -> None:
        if not self._is_meant(command.params[0], answer):
            return

        def cleared(outcome: Outcome) -> None:
            if not outcome.success:
                self._complain(f"tracking not stopped: {outcome.message}")
            answer(_RESULTS.get(outcome.code, CommandResult.FAILED))

        self._tracker.clear(cleared)

    def _set_interval(self, command: Command, answer: Answer) -> None:
        number, microseconds = command.params[:2]
        if number not in self._streamed:
            self._deny_message(command, answer)
            return
        if microseconds == -1:
            interval = None
        elif microseconds == 0:
            interval = 1.0 / self._settings.default_rate
        elif 0 < microseconds <= _LONGEST_S * 1e6:
            interval = microseconds / 1e6
        else:
            self._deny(
                answer, f"interval of message {number:g} is {microseconds:g}, expected -1, 0 or "
                f"up to {_LONGEST_S:g} s in microseconds",
            )  # fmt: skip
            return
        self._streams.set(command.sender.peer, int(number), command.sender[1:], interval)
        answer(CommandResult.ACCEPTED)

    def _get_interval(self, command: Command, answer: Answer) -> None:
        number = command.params[0]
        if number not in self._messages:
            self._deny_message(command, answer)
            return
        peer: Peer = command.sender.peer
        interval = self._streams.interval(peer, int(number))
        if int(number) == self._dialect.MAVLINK_MSG_ID_HEARTBEAT:
            interval = _HEARTBEAT_S
        microseconds = -1 if interval is None else round(interval * 1e6)
        answer(CommandResult.ACCEPTED)
        peer.send(self._dialect.MAVLink_message_interval_message(int(number), microseconds))

    def _request_message(self, command: Command, answer: Answer) -> None:
        make = self._messages.get(command.params[0])  # type: ignore[call-overload]  # 275.0 is 275
        if make is None:
            self._deny_message(command, answer)
            return
        message = make()
        if message is None:
            answer(CommandResult.TEMPORARILY_REJECTED)
            return
        answer(CommandResult.ACCEPTED)
        command.sender.peer.send(message)

    def _request_information(self, command: Command, answer: Answer) -> None:
        if command.params[0] != 1:
            answer(CommandResult.DENIED)
            return
        answer(CommandResult.ACCEPTED)
        command.sender.peer.send(self._information())

    def _is_meant(self, camera_id: float, answer: Answer) -> bool:
        """Whether a command's target camera is this one or all; denies it if not."""
        own = self._settings.component_id
        if math.isnan(camera_id) or camera_id in (0, own):
            return True
        what = "on the autopilot" if camera_id in DEVICE_NOT_OF_THIS_COMPONENT else "unknown here"
        self._deny(answer, f"target camera {camera_id:g} is {what}: give 0 or {own}")
        return False

    def _deny_message(self, command: Command, answer: Answer) -> None:
        """Deny a command about a message that this camera does not have.

        All components hear a broadcast; only those that have the message answer it.
        """
        if not command.broadcast:
            self._deny(answer, f"message {command.params[0]:g} is not one that this camera sends")

    def _deny(self, answer: Answer, text: str) -> None:
        self._complain(text)
        answer(CommandResult.DENIED)

    def _information(self) -> Any:
        return camera_information(self._settings, self._view, self._now - self._start)

    def _image_status(self) -> Any:
        chosen_by_point = self._view.target_id == self._point_target != ""
        return image_status(self._view, chosen_by_point)

    def _current_target(self) -> TargetPosition | None:
        """The target's position if it is one of now."""
        if self._target is None or self._now - self._target.seen_at > _STALE_S:
            return None
        return self._target

    def _geo_status(self) -> Any | None:
        target, mount = self._current_target(), self._settings.mount
        return None if target is None else geo_status(self._view, target, self._vehicle, mount)

    def _relative(self) -> Any | None:
        target, mount = self._current_target(), self._settings.mount
        return None if target is None else relative_position(target, self._vehicle, mount)
