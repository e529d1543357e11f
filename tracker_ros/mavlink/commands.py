# SPDX-License-Identifier: Apache-2.0
"""Commands over a link that loses, repeats and reorders packets, and their acknowledgements.

A ground station sends a command again, with a higher ``confirmation``, until it is acknowledged.
A command may be the same as one before (the acknowledgement was lost), a copy (the network doubled
a packet) or late (a newer one overtook it). None of these may start tracking a second time: the
rectangle was drawn on an image that is long gone.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

_REMEMBER_S = 5.0
_LATE_S = 2.0
_PROGRESS_S = 0.5
GIVE_UP_S = 10.0
"""A command without an answer for so long has failed."""
_UNKNOWN_PROGRESS = 255


class CommandResult(IntEnum):
    """Results of COMMAND_ACK, with MAVLink's numbers."""

    ACCEPTED = 0
    TEMPORARILY_REJECTED = 1
    DENIED = 2
    UNSUPPORTED = 3
    FAILED = 4
    IN_PROGRESS = 5


@dataclass(frozen=True)
class Command:
    """A command as it came."""

    number: int  # MAV_CMD
    params: tuple[float, ...]  # its seven parameters
    sender: Any  # whom to answer; hashable
    sequence: int  # number of its packet, 0 to 255
    confirmation: int = 0  # how often it was sent before
    broadcast: bool = False  # whether it was sent to all components rather than to this one

    def repeats(self, other: Command) -> bool:
        """Whether this is another copy of ``other``, doubled by the network or sent again."""
        # By their text, since NaN differs from itself.
        same = str(self.params) == str(other.params)
        # The first copy may come after one that was sent again.
        behind = (other.sequence - self.sequence) % 256
        return same and (behind < 128 or self.confirmation > 0)


Answer = Callable[[CommandResult], None]
Handler = Callable[[Command, Answer], None]


@dataclass
class _Record:
    """A command and what has become of it."""

    command: Command
    began: float
    result: CommandResult | None = None
    next_progress: float = 0.0


class CommandDesk:
    """Takes commands, has them executed, and acknowledges all of them.

    A handler executes a known command and calls its second argument with the result, for those in
    `once` at once or later; one that never calls it sends no acknowledgement. Commands in `once`
    must not be executed twice, nor late, after a newer one of these; the others are executed each
    time they come. `acknowledge` sends COMMAND_ACK: command, result, progress. `complain` is
    called with what is refused here.
    """

    def __init__(
        self,
        handlers: Mapping[int, Handler],
        once: frozenset[int],
        acknowledge: Callable[[Command, CommandResult, int], None],
        complain: Callable[[str], None],
    ) -> None:
        self._handlers = handlers
        self._once = once
        self._acknowledge = acknowledge
        self._complain = complain
        self._records: dict[tuple[Hashable, int], _Record] = {}
        self._newest: dict[Hashable, tuple[int, float]] = {}

    def receive(self, command: Command, now: float) -> None:
        """Execute a command, or answer what is known of it already."""
        handler = self._handlers.get(command.number)
        if handler is None:
            if not command.broadcast:
                self._complain(f"command {command.number} of {command.sender} is not supported")
                self._acknowledge(command, CommandResult.UNSUPPORTED, 0)
            return
        key = (command.sender, command.number)
        known = self._records.get(key) if command.number in self._once else None
        if known is not None and command.repeats(known.command):
            self._report(known, command)
            return
        if command.number in self._once and self._is_late(command, now):
            self._complain(f"command {command.number} of {command.sender} came late: left out")
            self._acknowledge(command, CommandResult.TEMPORARILY_REJECTED, 0)
            return
        record = _Record(command, now, next_progress=now + _PROGRESS_S)
        if command.number in self._once and (known is None or known.result is not None):
            self._records[key] = record
        handler(command, lambda result: self._finish(record, result))

    def tick(self, now: float) -> None:
        """Report progress, give up what was never answered, forget what is old."""
        for record in list(self._records.values()):
            if record.result is None and now - record.began > GIVE_UP_S:
                self._complain(f"command {record.command.number} had no answer: failed")
                self._finish(record, CommandResult.FAILED)
            elif record.result is None and now >= record.next_progress:
                record.next_progress = now + _PROGRESS_S
                self._report(record, record.command)
        self._records = {
            key: record
            for key, record in self._records.items()
            if record.result is None or now - record.began < _REMEMBER_S
        }
        self._newest = {s: old for s, old in self._newest.items() if now - old[1] < _LATE_S}

    def _is_late(self, command: Command, now: float) -> bool:
        """Whether a newer command of this sender has been executed; remember this one if not."""
        sequence, when = self._newest.get(command.sender, (command.sequence, now))
        behind = (sequence - command.sequence) % 256
        if now - when < _LATE_S and 0 < behind < 128:
            return True
        self._newest[command.sender] = (command.sequence, now)
        return False

    def _finish(self, record: _Record, result: CommandResult) -> None:
        if record.result is None:
            record.result = result
            self._acknowledge(record.command, result, 0)

    def _report(self, record: _Record, command: Command) -> None:
        """Acknowledge a command with what is known of it."""
        if record.result is None:
            self._acknowledge(command, CommandResult.IN_PROGRESS, _UNKNOWN_PROGRESS)
        else:
            self._acknowledge(command, record.result, 0)
