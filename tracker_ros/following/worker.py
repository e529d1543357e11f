# SPDX-License-Identifier: Apache-2.0
"""One thread that owns the model, with a mailbox for frames and a queue for jobs.

A queue of images would turn a slow model into growing delay. The mailbox has one slot for each
camera and keeps only the newest frame in it, so that a frame waits at most for the one in work,
however fast the camera is. Whatever the thread owns is changed by jobs; CUDA contexts too belong
to the thread that made them.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Collection, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")

_log = logging.getLogger(__name__)


class Worker(Generic[T]):
    """Runs jobs in order, and handles the newest frames between jobs.

    Args:
        handle: Called with the frames that wait in the mailbox, one of each slot, in the order in
            which the slots were filled.
        idle: Called every `idle_period_s` while there is nothing to do.
        busy: Called before the mailbox is read; does one step of other work for each camera that
            has some. Returns the slots of these cameras, whose frames go on waiting.
        failed: Called with an exception that one of these or a job raised; the thread goes on.
        name: Name of the thread.
        idle_period_s: Seconds.

    Attributes:
        death: What ended the thread before `stop`, such as a SystemExit; None if nothing did.
    """

    def __init__(
        self,
        handle: Callable[[list[T]], None],
        idle: Callable[[], None],
        busy: Callable[[], Collection[Hashable]],
        failed: Callable[[BaseException], None],
        name: str = "tracker",
        idle_period_s: float = 0.25,
    ) -> None:
        self._handle = handle
        self._idle = idle
        self._busy = busy
        self._failed = failed
        self._idle_period_s = idle_period_s
        self._wake = threading.Condition()
        self._slots: dict[Hashable, T] = {}
        self._jobs: deque[tuple[str, Callable[[], None]]] = deque()
        self._stopping = False
        self._steps = 0
        self._idling = True
        self.death: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def step(self) -> int | None:
        """The number of the present job, step or frame; None while there is nothing to do."""
        return None if self._idling else self._steps

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def put(self, frame: T, slot: Hashable = None) -> None:
        """Put a frame into a slot of the mailbox; it replaces one that still waits there."""
        with self._wake:
            self._slots[slot] = frame
            self._wake.notify()

    def post(self, job: Callable[[], None], name: str = "") -> bool:
        """Post a job, which runs before the next frame. Returns False if it never will.

        A job with a name replaces one of that name that still waits.
        """
        with self._wake:
            if self._stopping or self.death is not None:
                return False
            if name:
                self._jobs = deque(waiting for waiting in self._jobs if waiting[0] != name)
            self._jobs.append((name, job))
            self._wake.notify()
            return True

    def run_and_wait(self, job: Callable[[], None], timeout_s: float) -> bool:
        """Post a job and wait until it has ended. Returns False on timeout."""
        done = threading.Event()

        def run() -> None:
            try:
                job()
            finally:
                done.set()

        return self.post(run) and done.wait(timeout_s)

    def stop(self, last: Callable[[], None], timeout_s: float) -> bool:
        """Drop the jobs that wait, run a last one and end the thread.

        Returns False if the thread is still busy. It ends when it has finished.
        """
        with self._wake:
            if not self._stopping:
                self._jobs = deque([("", last)])
            self._stopping = True
            self._slots.clear()
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def join(self) -> None:
        """Wait until the thread has ended after `stop`, however long its present job takes."""
        self._thread.join()

    def _run(self) -> None:
        try:
            while self._guarded_step():
                pass
        except BaseException as error:  # whoever watches the thread is told why it ended
            self.death = error
        finally:
            self._idling = True
            with self._wake:
                self._jobs.clear()  # with what they hold, such as a model

    def _guarded_step(self) -> bool:
        """Do one step. A bad frame or job must not end the thread, nor a report of it that fails.

        Returns False when the thread should end.
        """
        try:
            return self._step()
        except Exception as error:
            try:
                self._failed(error)
            except Exception:
                _log.exception("a fault in the worker could not be reported")
            return True

    def _step(self) -> bool:
        """Run one job, or one step and one frame of each camera. Returns False at the end."""
        self._steps += 1
        self._idling = False
        with self._wake:
            job = self._jobs.popleft()[1] if self._jobs else None
            if job is None and self._stopping:
                return False
        if job is not None:
            job()
            return True
        occupied = self._busy()
        with self._wake:
            if not (occupied or self._slots or self._jobs or self._stopping):
                self._idling = True
                self._wake.wait(self._idle_period_s)
                self._idling = False
            if self._jobs or self._stopping:
                return True
            ready = [slot for slot in self._slots if slot not in occupied]
            frames = [self._slots.pop(slot) for slot in ready]
        if frames:
            self._handle(frames)
        elif not occupied:
            self._idle()
        return True
