# SPDX-License-Identifier: Apache-2.0
"""Take rows of measurements, each in a process of its own; show them as a table, keep them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from tracker_ros.evaluation.machine import processor_name
from tracker_ros.process import SPINNING

Row = dict[str, Any]


def measure_apart(module: str, arguments: Iterable[object]) -> Any:
    """Run a benchmark in a process of its own. Returns what it prints as JSON.

    Its threads wait as those of the program `tracker-ros` do.

    Args:
        module: The benchmark.
        arguments: Its command line.

    Raises:
        RuntimeError: It failed; the message contains its error output.
    """
    command = [sys.executable, "-m", module, *map(str, arguments)]
    environment = {**SPINNING, **os.environ}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(command[1:])} failed:\n{result.stderr}")
    return json.loads(result.stdout)


def as_table(rows: Iterable[Row], columns: Sequence[str], decimals: int) -> str:
    """Return a Markdown table; numbers below 10 have so many `decimals`, others one."""
    lines = [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
    for row in rows:
        cells = [_cell(row.get(column, ""), decimals) for column in columns]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(value: object, decimals: int) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.{decimals if value < 10 else 1}f}"


def publish(rows: list[Row], columns: Sequence[str], decimals: int, path: Path | None) -> None:
    """Print the machine and the table; with a path, write the rows to a JSON file too."""
    print(f"{processor_name()}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}")
    print(as_table(rows, columns, decimals))
    if path:
        facts = {"processor": processor_name(), "torch": torch.__version__, "rows": rows}
        path.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
