# SPDX-License-Identifier: Apache-2.0
"""Requests that wait for the worker: only so many, and each is answered exactly once."""

from __future__ import annotations

import threading
from collections.abc import Callable

from tracker_ros.following.selection import Outcome, SelectionCode

Answer = Callable[[Outcome], None]

MAX_WAITING_REQUESTS = 64
"""Maximum number of requests that wait; a further one is answered with BUSY at once."""


class Requests:
    """Keeps the answers that are still owed; may be used from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owed: dict[int, Answer] = {}
        self._next = 0
        self._ended: Outcome | None = None

    def accept(self, answer: Answer) -> Answer | None:
        """Accept a request, if there is room for it.

        Returns:
            A function that calls ``answer`` the first time it is called. None if the request is
            refused: ``answer`` has then been called.
        """
        with self._lock:
            refusal = self._ended
            if refusal is None and len(self._owed) >= MAX_WAITING_REQUESTS:
                text = f"{MAX_WAITING_REQUESTS} requests are waiting for the tracker: ask again"
                refusal = Outcome(SelectionCode.BUSY, text)
            if refusal is None:
                self._next += 1
                number = self._next
                self._owed[number] = answer
        if refusal is not None:
            answer(refusal)
            return None
        return lambda outcome: self._settle(number, outcome)

    def end(self, outcome: Outcome) -> None:
        """Answer all requests, and those that come later, with one outcome."""
        with self._lock:
            self._ended = outcome
            owed, self._owed = list(self._owed.values()), {}
        for answer in owed:
            answer(outcome)

    def _settle(self, number: int, outcome: Outcome) -> None:
        with self._lock:
            answer = self._owed.pop(number, None)
        if answer is not None:
            answer(outcome)
