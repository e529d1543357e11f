# SPDX-License-Identifier: Apache-2.0
"""Share an evaluation among processes and machines started by `torchrun` (gloo).

Each process takes the next video when it has finished one, the longest videos first, so that fast
and slow machines end at about the same time. A video's results do not depend on who tracks it.
The first process receives all scores and reports them in the order of the sequences.
"""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tracker_ros.evaluation.runner import TrackerRun, Video
from tracker_ros.evaluation.sequences import AnnotatedSequence

_PATIENCE = datetime.timedelta(days=7)  # that of the slowest video of a slow machine
_POLL_S = 1.0


def join_team() -> Team | None:
    """Join the processes that `torchrun` has started; None in a process on its own.

    Raises RuntimeError if the others cannot be reached.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return None
    import torch.distributed as dist

    if not dist.is_available():
        raise RuntimeError("this build of PyTorch has no torch.distributed; run without torchrun")
    from torch.distributed.rendezvous import rendezvous

    store, rank, size = next(rendezvous("env://", timeout=_PATIENCE))
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=_PATIENCE)
    return Team(rank, size, store)


class Team:
    """The processes of an evaluation, which share counters by name; the first one reports."""

    def __init__(self, rank: int, size: int, store: Any) -> None:
        self.rank = rank
        self.size = size
        self.is_first = rank == 0
        self._store = store

    def check_same(self, what: str) -> None:
        """Raise ValueError in every process unless all were given the same."""
        import torch.distributed as dist

        given: list[Any] = [None] * self.size
        dist.all_gather_object(given, what)
        if len(set(given)) > 1:
            other = next(rank for rank, theirs in enumerate(given) if theirs != given[0])
            raise ValueError(
                f"process {other} does not have the sequences or options of process 0: give all "
                "machines the same data and the same command"
            )

    def claim(self, name: str, videos: Sequence[Video]) -> Iterator[Video]:
        """Yield the videos that this process should track, under a name that is used once."""
        ordered = sorted(videos, key=lambda video: -sum(len(sequence) for sequence in video))
        while (place := self._store.add(f"next {name}", 1) - 1) < len(ordered):
            yield ordered[place]

    def count(self, frames: int) -> None:
        """Count frames that this process has finished."""
        self._store.add("frames", frames)

    def counted(self) -> int:
        """Return the number of frames that all processes have finished."""
        return int(self._store.add("frames", 0))

    def gather(
        self,
        run: TrackerRun,
        sequences: Sequence[AnnotatedSequence],
        waiting: Callable[[], object] = lambda: None,
    ) -> None:
        """Bring the results of all processes into the run of the first one.

        They come in the order of the sequences. `waiting` is called each second by the first
        process while others are at work.
        """
        import torch.distributed as dist

        done = f"done {run.entry.name}"
        self._store.add(done, 1)
        while self.is_first and self._store.add(done, 0) < self.size:
            waiting()
            time.sleep(_POLL_S)
        parts: list[Any] | None = [None] * self.size if self.is_first else None
        dist.gather_object(run.findings(), parts)
        if parts is not None:
            run.take_findings(parts, [sequence.name for sequence in sequences])

    def leave(self) -> None:
        """End the work together."""
        import torch.distributed as dist

        dist.barrier()
        dist.destroy_process_group()
