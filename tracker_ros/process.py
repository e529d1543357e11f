# SPDX-License-Identifier: Apache-2.0
"""What programs decide about their process: waiting threads, free memory, signals and the end.

Importing the package changes nothing. OpenMP reads its settings when torch is imported, so a
program calls `set_waiting` first; what the user has set in the environment takes precedence.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NoReturn, TypeVar

_Function = TypeVar("_Function", bound=Callable[[], object])
END_SIGNALS = (signal.SIGINT, signal.SIGTERM)

SLEEPING = {"OMP_WAIT_POLICY": "passive"}
"""Threads sleep while they wait for each other. Where another program wants the same cores, as on
every robot, a spinning thread keeps off the one it waits for, and a frame takes up to thirty times
as long."""
SPINNING = {**SLEEPING, "GOMP_SPINCOUNT": "1000"}
"""Threads spin for some microseconds before they sleep, which saves up to 40 % of a frame for a
program that has the machine to itself."""

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_PAD_BYTES = 256 * 1024 * 1024


def set_waiting(settings: dict[str, str]) -> None:
    """Decide how OpenMP's threads wait, `SLEEPING` or `SPINNING`, before torch is imported."""
    for name, value in settings.items():
        os.environ.setdefault(name, value)


def thread_count() -> int:
    """Return how many threads compute: torch's where it is in use, else OMP_NUM_THREADS or all."""
    if torch := sys.modules.get("torch"):
        return int(torch.get_num_threads())
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return int(wanted) if wanted.isdecimal() and int(wanted) else len(os.sched_getaffinity(0))


def keep_large_buffers() -> bool:
    """Make glibc serve large allocations from the heap and never trim it; tell if it could.

    Drawing and training allocate the same megabytes again at every step; by default each comes
    from a fresh mapping whose pages the kernel must clear first, which took over half of the time
    of drawing pairs. Worker processes inherit the setting.
    """
    mallopt = _glibc("mallopt")
    if mallopt is None:
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, _PAD_BYTES))
    done = [mallopt(name, value) == 1 for name, value in settings]
    return all(done)


def give_back_free_memory() -> bool:
    """Return the heap's free memory to the kernel, also from its middle; tell if there was any.

    By itself glibc does so only at the heap's end, which one small block can hold in place: after
    a model is dropped, tens of megabytes stay with the process. Objects that only refer to each
    other are freed first: Python counts them, and not the megabytes that they hold. Takes some
    tens of milliseconds.
    """
    gc.collect()
    malloc_trim = _glibc("malloc_trim")
    return malloc_trim is not None and bool(malloc_trim(0))


def _glibc(name: str) -> Any:
    """Return a function of the C library, or None if it has none of that name."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


class Terminated(KeyboardInterrupt):
    """SIGTERM has asked a program to end; raised where Ctrl-C raises KeyboardInterrupt."""


def terminate_as_interrupt() -> None:
    """Make SIGTERM raise `Terminated`, so that a program ends in order as it does on Ctrl-C."""

    def interrupt(number: int, frame: object) -> NoReturn:
        raise Terminated

    signal.signal(signal.SIGTERM, interrupt)


class EndRequest:
    """Whether SIGINT or SIGTERM has come; see `hold_end_signals`."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    @property
    def name(self) -> str:
        """Name of the signal; empty without one."""
        return self.signal.name if self.signal is not None else ""

    @property
    def status(self) -> int:
        """Exit status of a program that has ended at this request, as shells count; else 0."""
        return 128 + self.signal if self.signal is not None else 0

    def note(self, interrupt: KeyboardInterrupt) -> None:
        """Remember an interrupt that was raised before or beside the block."""
        self.signal = signal.SIGTERM if isinstance(interrupt, Terminated) else signal.SIGINT


@contextmanager
def hold_end_signals() -> Iterator[EndRequest]:
    """Hold back the first SIGINT or SIGTERM while the block runs; a second one interrupts it.

    Yields what the block should look at between two steps of its work. In a thread other than the
    main one, which takes no signals, it stays false.
    """
    request = EndRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def note(number: int, frame: object) -> None:
        if request:
            raise Terminated if number == signal.SIGTERM else KeyboardInterrupt
        request.signal = signal.Signals(number)

    before = {number: signal.signal(number, note) for number in END_SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


_children: set[subprocess.Popen[bytes]] = set()
_last_things: list[Callable[[], object]] = []


def run_child(command: Sequence[str], timeout_s: float) -> subprocess.CompletedProcess[bytes]:
    """Run a command to its end without input; it ends when this process ends suddenly.

    Raises OSError if it cannot be started, subprocess.TimeoutExpired if it takes longer.
    """
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe) as child:
        _children.add(child)
        try:
            out, errors = child.communicate(timeout=timeout_s)
        except BaseException:
            child.kill()
            raise
        finally:
            _children.discard(child)
    return subprocess.CompletedProcess(command, child.returncode, out, errors)


def at_sudden_end(function: _Function) -> _Function:
    """Have a function called by `end_suddenly`. Returns the function, as a decorator does."""
    _last_things.append(function)
    return function


def end_suddenly(status: int) -> NoReturn:
    """End this process now, whatever its other threads are doing.

    Output is flushed, children are ended and unfinished files removed. The interpreter is not torn
    down: it would wait for a thread in native code, or abort beside it.
    """
    for child in list(_children):
        with suppress(OSError):
            child.terminate()  # compilers then remove their own files
    for function in _last_things:
        with suppress(Exception):
            function()
    for flush in (logging.shutdown, sys.stdout.flush, sys.stderr.flush):
        with suppress(Exception):
            flush()
    os._exit(status)
