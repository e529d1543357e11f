# SPDX-License-Identifier: Apache-2.0
"""The measurement of latency measures; how long things take is no affair of a test."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest

SHORT = ["--seconds", "1", "--fill", "0.5", "--sizes", "320x240", "--backend", "torch"]


@pytest.fixture
def rows_of(tmp_path):
    """Runs the benchmark as a user does; its rows."""

    def run(*arguments):
        path = tmp_path / "rows.json"
        command = [
            sys.executable,
            "-m",
            "tools.benchmarks.node_latency",
            *SHORT,
            "--json",
            str(path),
        ]
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(path.read_text())["rows"]

    return run


def numbers(row):
    """All numbers of a row by name, every one finite."""
    found = {name: value for name, value in row.items() if isinstance(value, (int, float))}
    assert all(math.isfinite(value) for value in found.values()), row
    return found


def test_the_node_is_measured_beside_a_bare_one(rows_of):
    rows = rows_of("--rate", "20")
    assert [row["path"] for row in rows] == ["echo", "echo, memory kept", "ostrack_tiny"]
    for row in map(numbers, rows):
        assert 2 <= row["boxes"] <= 20 + 5
        assert 0.0 < row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"]
    assert rows[0]["own_p50_ms"] == rows[1]["own_p50_ms"] == 0.0
    assert rows[2]["own_p50_ms"] > 0.0
    assert rows[2]["goal_p50_ms"] > rows[1]["p50_ms"]


def test_all_outputs_are_measured_beside_none(rows_of):
    alone, inputs, outputs = map(numbers, rows_of("--outputs", "--rounds", "1", "--rate", "20"))
    assert alone["topics"] == inputs["topics"] == alone["added_p50_ms"] == 0
    assert outputs["topics"] == 14, "each of them is heard"
    for before, row in ((alone, inputs), (inputs, outputs)):
        assert row["added_p50_ms"] == pytest.approx(row["age_p50_ms"] - before["age_p50_ms"])
        assert row["cpu_ms"] > 0.0


def test_compressed_images_are_measured(rows_of):
    (row,) = map(numbers, rows_of("--compressed", "--rate", "20"))
    assert row["received"] >= row["boxes"] >= 2


def test_a_camera_that_is_too_fast_is_measured(rows_of):
    (row,) = map(numbers, rows_of("--overload", "--rate", "150"))
    assert row["boxes"] >= 2
    assert 0.0 < row["age_p50_ms"] <= row["age_p99_ms"]
    assert row["goal_p99_ms"] > 2 * row["work_ms"] > 0.0
    assert row["received"] > row["dropped"] > 0
    assert row["rss_mib"] >= 0.5 * row["rss_first_mib"] > 25.0
