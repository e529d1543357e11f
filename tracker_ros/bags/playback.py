# SPDX-License-Identifier: Apache-2.0
"""The messages of a bag in the order and at the pace in which a node would receive them."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

from tracker_ros.io.bag_reader import BagReader


@dataclass(frozen=True)
class BagMessage:
    """A message of a bag."""

    topic: str
    time_ns: int  # when it was recorded, nanoseconds
    data: bytes  # its serialised form


def bag_messages(
    reader: BagReader, topics: Collection[str], early: Collection[str] = (), early_ns: int = 0
) -> Iterator[BagMessage]:
    """Yield the messages of some topics by time.

    Those of the `early` topics come before others that were recorded up to ``early_ns`` earlier:
    what belongs to an image is recorded a moment after it.
    """
    waiting: list[tuple[int, int, BagMessage]] = []
    for place, (topic, time_ns, data) in enumerate(reader.messages(topics)):
        key = time_ns - early_ns if topic in early else time_ns
        heapq.heappush(waiting, (key, place, BagMessage(topic, time_ns, data)))
        while waiting and waiting[0][0] <= time_ns - early_ns:
            yield heapq.heappop(waiting)[2]
    while waiting:
        yield heapq.heappop(waiting)[2]


class BagClock:
    """The time in a bag: that of the message at hand, or that of a clock that runs on.

    The rate says how many times faster than recorded; 0 is as fast as messages are handled.
    """

    def __init__(
        self,
        rate: float = 0.0,
        sleep: Callable[[float], Any] = time.sleep,
        wall: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rate = rate
        self._sleep = sleep
        self._wall = wall
        self._begin: tuple[float, int] | None = None
        self._at_ns = 0

    def now_ns(self) -> int:
        """Return the time in the bag, nanoseconds; it never goes back."""
        if self._rate and self._begin is not None:
            began_s, began_ns = self._begin
            passed_ns = round((self._wall() - began_s) * self._rate * 1e9)
            return max(self._at_ns, began_ns + passed_ns)
        return self._at_ns

    def now_s(self) -> float:
        """Return the time in the bag, seconds."""
        return self.now_ns() / 1e9

    def is_due(self, time_ns: int) -> bool:
        """Whether a message would have arrived by now; without a rate, none has."""
        return bool(self._rate) and self._begin is not None and self.now_ns() >= time_ns

    def advance(self, time_ns: int) -> None:
        """Go on to the time of a message, and wait for it if there is a rate."""
        if self._begin is None:
            self._begin = (self._wall(), time_ns)
        if self._rate:
            ahead_s = (time_ns - self.now_ns()) / 1e9 / self._rate
            if ahead_s > 0:
                self._sleep(ahead_s)
        self._at_ns = max(self._at_ns, time_ns)
