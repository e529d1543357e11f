# SPDX-License-Identifier: Apache-2.0
"""Steps of a set-up that can be interrupted, repeated and continued.

A step runs only if its key (a hash of all that it depends on) differs from the one in its stamp.
The stamp is removed before a step starts and written after it succeeded, so an interrupted step
runs again. Everything that a step prints goes to its own log.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

Environment = Mapping[str, str]


class StepError(Exception):
    """A step failed; the message says what, why and what to do."""


@dataclass(frozen=True)
class Step:
    """One part of the set-up.

    Attributes:
        name: Names stamp and log.
        title: What it does, shown while it runs.
        run: Does the work; gets the log. Must cope with what an interrupted run left behind.
        inputs: Files, folders (taken recursively) and other values that the result depends on.
        after: Steps whose redoing makes this one's result stale.
        made: Paths that exist after success; a missing one means that the step has to run again.
        remedy: What to do when it fails.
    """

    name: str
    title: str
    run: Callable[[Log], None]
    inputs: Sequence[Path | str] = ()
    after: Sequence[Step] = ()
    made: Sequence[Path] = ()
    remedy: str = ""

    def key(self) -> str:
        """Return the hash of everything that the result depends on."""
        digest = hashlib.sha256(self.name.encode())
        for item in self.inputs:
            if isinstance(item, Path):
                for path in _files_of(item):
                    digest.update(f"\n{path}\n".encode() + path.read_bytes())
            else:
                digest.update(f"\n{item}".encode())
        for step in self.after:
            digest.update(f"\n{step.key()}".encode())
        return digest.hexdigest()


def _files_of(path: Path) -> Iterator[Path]:
    """Yield ``path``, or the files below it in a fixed order, without caches."""
    if path.is_file():
        yield path
    elif path.is_dir():
        for entry in sorted(path.iterdir()):
            if entry.name != "__pycache__":
                yield from _files_of(entry)


class Log:
    """The log of one step; runs commands whose output goes there."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file = path.open("w", encoding="utf-8")

    def write(self, text: str) -> None:
        """Add a line."""
        self._file.write(text + "\n")
        self._file.flush()

    def call(self, command: Sequence[str | Path], env: Environment, cwd: Path) -> None:
        """Run ``command``; raise StepError when it cannot be started or does not exit with 0."""
        words = [str(word) for word in command]
        self.write("$ " + " ".join(words))
        try:
            done = subprocess.run(
                words,
                env=dict(env),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=self._file,
                stderr=subprocess.STDOUT,
                check=False,
            )
        except OSError as error:
            raise StepError(f"cannot start {words[0]}: {error.strerror}") from error
        if done.returncode != 0:
            raise StepError(f"'{' '.join(words[:4])} ...' exited with {done.returncode}")

    def tail(self, lines: int = 15) -> str:
        """Return the last lines written."""
        self._file.flush()
        text = self.path.read_text(encoding="utf-8", errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def close(self) -> None:
        """Close the file."""
        self._file.close()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file ``path``; a second set-up of the same folder waits for the first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            owner = handle.read().strip() or "unknown"
            print(f"another set-up of this checkout is running (process {owner}); waiting for it")
            sys.stdout.flush()
            fcntl.flock(handle, fcntl.LOCK_EX)
        handle.truncate(0)
        handle.write(f"{os.getpid()}\n")
        handle.flush()
        yield


def run_steps(steps: Iterable[Step], folder: Path) -> list[str]:
    """Run the steps whose results are missing or stale; return the names of those that ran.

    Args:
        steps: In the order in which they have to run.
        folder: Where ``stamps/`` and ``logs/`` are kept.

    Raises:
        StepError: A step failed; the message names the step, its log and the remedy.
    """
    stamps = folder / "stamps"
    stamps.mkdir(parents=True, exist_ok=True)
    todo = list(steps)
    ran = []
    for number, step in enumerate(todo, 1):
        stamp = stamps / step.name
        key = step.key()
        fresh = stamp.is_file() and stamp.read_text().strip() == key
        if fresh and all(path.exists() for path in step.made):
            continue
        print(f"[{number}/{len(todo)}] {step.title} ... ", end="", flush=True)
        stamp.unlink(missing_ok=True)
        started = time.monotonic()
        _run(step, Log(folder / "logs" / f"{step.name}.log"))
        stamp.write_text(key + "\n")
        print(f"{time.monotonic() - started:.0f} s", flush=True)
        ran.append(step.name)
    return ran


def _run(step: Step, log: Log) -> None:
    """Run one step; add step, log and remedy to what went wrong."""
    try:
        step.run(log)
        missing = [str(path) for path in step.made if not path.exists()]
        if missing:
            raise StepError(f"it ended without making {', '.join(missing)}")
    except (StepError, OSError) as error:
        print("failed", flush=True)
        raise StepError(
            f"step '{step.name}' ({step.title}) failed: {error}\n\n"
            f"Last lines of its log:\n{log.tail()}\n\n"
            f"Whole log: {log.path}\n"
            f"What to do: {step.remedy} Then run 'make setup' again; finished steps are kept."
        ) from error
    finally:
        log.close()
