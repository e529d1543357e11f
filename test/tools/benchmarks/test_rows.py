# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import pytest

from tools.benchmarks.rows import as_table, measure_apart, publish

COLUMNS = ("model", "threads", "ms", "gflop", "multiple")
ROWS = [{"model": "m", "threads": 2, "ms": 12.345, "multiple": 0.5}]


def test_table_leaves_unknown_cells_empty() -> None:
    assert as_table(ROWS, COLUMNS, 2).splitlines() == [
        "| model | threads | ms | gflop | multiple |",
        "| --- | --- | --- | --- | --- |",
        "| m | 2 | 12.3 |  | 0.50 |",
    ]


def test_rows_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rows.json"
    publish(ROWS, COLUMNS, 3, path)
    assert as_table(ROWS, COLUMNS, 3) in capsys.readouterr().out
    kept = json.loads(path.read_text(encoding="utf-8"))
    assert kept["rows"] == ROWS
    assert kept["processor"]


def test_what_a_benchmark_prints_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(ROWS), encoding="utf-8")
    assert measure_apart("json.tool", [path]) == ROWS
    with pytest.raises(RuntimeError, match=r"(?s)json\.tool absent failed:\n.*No such file"):
        measure_apart("json.tool", ["absent"])
