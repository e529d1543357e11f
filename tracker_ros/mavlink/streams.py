# SPDX-License-Identifier: Apache-2.0
"""Messages that are sent again and again, at the intervals that ground stations ask for.

Several ground stations may share one address, behind a router. Then the shortest of their
intervals counts, and a station that stops a stream stops only its own.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

P = TypeVar("P", bound=Hashable)

_MAX_STATIONS = 32


class MessageStreams(Generic[P]):
    """The intervals of messages by peer, and when each is due. Times are in seconds."""

    def __init__(self) -> None:
        self._intervals: dict[tuple[P, int], dict[Hashable, float]] = {}
        self._due: dict[tuple[P, int], float] = {}

    def set(self, peer: P, message: int, station: Hashable, interval_s: float | None) -> None:
        """Set the interval that a station behind a peer wants; None for no messages."""
        wanted = self._intervals.setdefault((peer, message), {})
        if interval_s is None:
            wanted.pop(station, None)
        elif station in wanted or len(wanted) < _MAX_STATIONS:
            wanted[station] = interval_s
        self._due.pop((peer, message), None)
        if not wanted:
            del self._intervals[peer, message]

    def interval(self, peer: P, message: int) -> float | None:
        """Return the interval at which a peer is sent a message; None if it is not."""
        wanted = self._intervals.get((peer, message))
        return min(wanted.values()) if wanted else None

    def forget(self, peer: P) -> None:
        """Send nothing more to a peer."""
        for key in [key for key in self._intervals if key[0] == peer]:
            del self._intervals[key]
            self._due.pop(key, None)

    def take_due(self, now: float) -> list[tuple[P, int]]:
        """Return the peers and messages whose time has come, and begin their next interval."""
        due = []
        for key, wanted in self._intervals.items():
            when = self._due.get(key, now)
            if when <= now:
                interval = min(wanted.values())
                # In step with the interval, not with the moment of asking; never a burst.
                self._due[key] = max(when + interval, now + interval / 2)
                due.append(key)
        return due
