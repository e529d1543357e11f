# SPDX-License-Identifier: Apache-2.0
"""One thread that owns the model, a one-slot mailbox for frames and a queue for everything else.

A queue of images would turn a slow model into growing delay. The mailbox holds the newest frame
only, so the delay is at most the frame in work and the one that waits, however fast the camera.
CUDA contexts also belong to the thread that made them, so nothing else touches the model.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["Worker"]

T = TypeVar("T")

_IDLE_PERIOD_S = 0.25


class Worker(Generic[T]):
    """Runs jobs in order, and between jobs handles the newest frame.

    Args:
        handle: Called with each frame taken from the mailbox.
        idle: Called about four times a second while there is nothing to do.
        busy: Called before looking at the mailbox; does one step of work of its own and returns
            True, or returns False when it has none.
        failed: Called with an exception that one of these, or a job, let through; the thread
            goes on.
        name: Name of the thread.
    """

    def __init__(
        self,
        handle: Callable[[T], None],
        idle: Callable[[], None],
        busy: Callable[[], bool],
        failed: Callable[[BaseException], None],
        name: str = "tracker",
    ) -> None:
        self._handle = handle
        self._idle = idle
        self._busy = busy
        self._failed = failed
        self._wake = threading.Condition()
        self._slot: T | None = None
        self._jobs: deque[Callable[[], None]] = deque()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def put(self, frame: T) -> None:
        """Leave a frame in the mailbox, in place of one that still waits there."""
        with self._wake:
            self._slot = frame
            self._wake.notify()

    def empty_mailbox(self) -> None:
        """Throw away a frame that still waits."""
        with self._wake:
            self._slot = None

    def post(self, job: Callable[[], None]) -> bool:
        """Have the thread run ``job`` after those posted before, ahead of the next frame.

        Returns:
            Whether it was taken; a worker that stops takes no more.
        """
        with self._wake:
            if self._stopping:
                return False
            self._jobs.append(job)
            self._wake.notify()
            return True

    def run_and_wait(self, job: Callable[[], None], timeout_s: float) -> bool:
        """Post ``job`` and wait for its end.

        Returns:
            Whether it ended in time.
        """
        done = threading.Event()

        def run() -> None:
            try:
                job()
            finally:
                done.set()

        return self.post(run) and done.wait(timeout_s)

    def stop(self, timeout_s: float) -> bool:
        """Run the jobs already posted, then end the thread.

        Returns:
            Whether it ended in time; if not, it ends on its own after what it is doing.
        """
        with self._wake:
            self._stopping = True
            self._slot = None
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            try:
                if not self._step():
                    return
            except Exception as error:  # one bad frame or job must not end the thread
                self._failed(error)

    def _step(self) -> bool:
        """Do one thing; False when there is no more to do."""
        with self._wake:
            job = self._jobs.popleft() if self._jobs else None
            if job is None and self._stopping:
                return False
        if job is not None:
            job()
            return True
        if self._busy():
            return True
        with self._wake:
            if self._slot is None and not self._jobs and not self._stopping:
                self._wake.wait(_IDLE_PERIOD_S)
            frame, waiting = self._slot, bool(self._jobs) or self._stopping
            if not waiting:
                self._slot = None
        if waiting:
            return True
        if frame is None:
            self._idle()
        else:
            self._handle(frame)
        return True
