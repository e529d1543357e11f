# SPDX-License-Identifier: Apache-2.0
"""The node `track` with a model that breaks on command.

    TRACKER_BREAK=FILE python -m tools.harness.breakable --ros-args ...

While FILE holds one of the words of `FAULTS`, the model does that instead of tracking. With an
empty file, or none, it is the model that the parameters name. All else is the real node.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from tracker_ros.nodes.node_main import exit_program, run_node
from tracker_ros.nodes.parameters import ParameterTable
from tracker_ros.nodes.track import TrackNode, create_from_parameters
from tracker_ros.tracker import Tracker, TrackResult

FAULTS = {
    "raise": "raises an error",
    "nan": "returns boxes that are not finite",
    "score": "returns scores above 1",
    "exit": "ends its thread",
    "hang": "does not return while the word is there",
}

Outcomes = list[TrackResult | Exception]


def breaking(
    track_batch: Callable[[Tracker, Sequence[Tracker], np.ndarray], Outcomes], command: Path
) -> Callable[[Tracker, Sequence[Tracker], np.ndarray], Outcomes]:
    """Return a `track_batch` that does what the word in the file says."""

    def word() -> str:
        return command.read_text().strip() if command.exists() else ""

    def changed(result: TrackResult | Exception, **fields: object) -> TrackResult | Exception:
        return replace(result, **fields) if isinstance(result, TrackResult) else result  # type: ignore[arg-type]

    def broken(self: Tracker, others: Sequence[Tracker], image: np.ndarray) -> Outcomes:
        fault = word()
        if fault == "raise":
            raise RuntimeError("broken on command")
        if fault == "exit":
            raise SystemExit("ended on command")
        while word() == "hang":
            time.sleep(0.02)
        results = track_batch(self, others, image)
        if fault == "nan":
            return [changed(result, box=(np.nan,) * 4) for result in results]
        if fault == "score":
            return [changed(result, score=7.0) for result in results]
        return results

    return broken


def main() -> None:
    """Run the node. On SIGUSR1 it prints where its threads are."""
    faulthandler.register(signal.SIGUSR1)
    command = Path(os.environ["TRACKER_BREAK"])
    broken: set[type[Tracker]] = set()

    def make(parameters: ParameterTable) -> Tracker:
        tracker = create_from_parameters(parameters)
        kind = type(tracker)
        if kind not in broken:
            broken.add(kind)
            kind.track_batch = breaking(kind.track_batch, command)  # type: ignore[method-assign]
        return tracker

    exit_program(run_node(lambda: TrackNode(make)))


if __name__ == "__main__":
    main()
