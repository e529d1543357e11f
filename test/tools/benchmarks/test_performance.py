# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from tools.benchmarks import performance, performance_page
from tools.benchmarks.performance import MatrixRate, check_that_it_runs, measure
from tools.benchmarks.workloads import random_weights
from tracker_ros import create_tracker
from tracker_ros.checkpoints import write_weights
from tracker_ros.engines import parity_check
from tracker_ros.tracker import Tracker

KINDS = {
    "ostrack_tiny": {"1 target", "4 targets"},
    "trdimp_tiny": {"initialise", "plain", "memory", "memory and filter"},
}


@pytest.fixture(autouse=True)
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The number of threads, which a measurement sets; as are the limits of the parity check."""
    for limit in ("MEDIAN_IOU", "MIN_IOU"):
        monkeypatch.setattr(parity_check, limit, getattr(parity_check, limit))
    before = torch.get_num_threads()
    yield before
    torch.set_num_threads(before)


def options(model: str, threads: int, folder: Path, **changes: Any) -> dict[str, Any]:
    return {
        "model": model, "device": "cpu", "backend": "torch", "precision": "fp32",
        "threads": threads, "seconds": 0.0, "weights": None, "cache": str(folder),
        "prepare": False, **changes,
    }  # fmt: skip


@pytest.mark.parametrize("model", KINDS)
def test_every_kind_of_work_is_measured(model: str, threads: int, tmp_path: Path) -> None:
    rows = measure(options(model, threads, tmp_path))
    assert {row["work"] for row in rows} == KINDS[model]
    for row in rows:
        assert row["ms"] > 0.0
        assert row["gflop"] > 0.05
        assert row["peak_mib"] > 50.0
        assert row["start_s"] > 0.0
    assert measure(options(model, threads, tmp_path, prepare=True)) == []


def test_four_targets_take_four_times_the_arithmetic(threads: int, tmp_path: Path) -> None:
    one, four = measure(options("ostrack_tiny", threads, tmp_path))
    assert four["gflop"] == pytest.approx(4 * one["gflop"], rel=1e-6)
    assert "box_iou" not in one


def test_other_back_ends_are_compared_by_their_boxes(threads: int, shared_engines: Path) -> None:
    given = options("ostrack_tiny", threads, shared_engines, backend="onnxruntime")
    row, _ = measure(given)
    assert "gflop" not in row
    assert row["box_iou"] > 0.99


def test_a_tracker_of_opencv_is_measured_beside(threads: int, tmp_path: Path) -> None:
    (row,) = measure(options("csrt", threads, tmp_path, backend="opencv"))
    assert (row["work"], row["backend"], row["device"]) == ("1 target", "opencv", "cpu")
    assert row["ms"] > 0.0


def test_random_weights_may_find_what_they_like(threads: int, tmp_path: Path) -> None:
    assert (parity_check.MEDIAN_IOU, parity_check.MIN_IOU) == (0.99, 0.95)
    weights = tmp_path / "weights.safetensors"
    write_weights(random_weights("ostrack_tiny"), weights)
    measure(options("ostrack_tiny", threads, tmp_path, prepare=True, weights=str(weights)))
    assert (parity_check.MEDIAN_IOU, parity_check.MIN_IOU) == (0.0, 0.0)
    assert parity_check.SCORE_DIFFERENCE == 0.02


@pytest.mark.parametrize(
    ("facts", "runs"),
    [
        ({"backend": "tensorrt", "precision": "fp16"}, True),
        ({"backend": "torch", "precision": "fp16"}, False),
        ({"backend": "tensorrt", "precision": "fp32"}, False),
        ({"backend": "tensorrt", "precision": "fp16", "cuda_graph": "no"}, False),
        ({"backend": "tensorrt", "precision": "fp16", "cuda_graph": "yes"}, True),
    ],
)
def test_what_runs_on_something_else_is_refused(
    facts: dict[str, str], runs: bool, tmp_path: Path
) -> None:
    tracker = cast(Tracker, SimpleNamespace(runtime_info={"device": "cuda:0", **facts}))
    given = options("model", 1, tmp_path, backend="tensorrt", precision="fp16")
    if runs:
        check_that_it_runs(tracker, given)
        return
    named = f"model on tensorrt in fp16 runs on device cuda:0, backend {facts['backend']}, "
    with pytest.raises(ValueError, match=named):
        check_that_it_runs(tracker, given)


def test_rows_say_what_they_ran_on(
    threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row, _ = measure(options("ostrack_tiny", threads, tmp_path))
    assert row["runtime_info"] == {"backend": "torch", "device": "cpu", "precision": "fp32"}
    assert row["device"] == "cpu"
    monkeypatch.setattr(performance, "create_tracker", lambda *given, **options: tracker)
    tracker = create_tracker("ostrack_tiny", device="cpu", backend="torch")
    with pytest.raises(ValueError, match="ostrack_tiny on onnxruntime in fp32 runs on backend to"):
        measure(options("ostrack_tiny", threads, tmp_path, backend="onnxruntime"))


def test_a_row_that_breaks_down_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measured(module: str, arguments: list[str]) -> list[dict[str, Any]]:
        given = json.loads(arguments[1])
        if given["model"] == "trdimp_tiny":
            raise RuntimeError("-m tools.benchmarks.performance failed:\nno memory")
        return [given]

    monkeypatch.setattr(performance, "measure_apart", measured)
    arguments = Namespace(
        device="cpu", backends=["torch"], precisions=["fp32"], threads=[1], seconds=0.0,
        models=["trdimp_tiny", "ostrack_tiny"], engines=None,
    )  # fmt: skip
    (rows,) = performance._measure_all(arguments)
    assert [row["model"] for row in rows] == ["ostrack_tiny"]
    assert (
        "left out: -m tools.benchmarks.performance failed:\nno memory" in capsys.readouterr().err
    )


def test_rate_is_work_over_time() -> None:
    rate = MatrixRate(torch.device("cpu"), "fp32")
    rate.sample()
    assert 0.0 < rate.best < 10.0
    rate.best = 0.5
    assert rate.gflop_per_second == pytest.approx(2 * 2e-9 * 1024**3)


def row_of(model: str, work: str, **values: Any) -> dict[str, Any]:
    return {
        "model": model, "work": work, "backend": "torch", "precision": "fp32", "threads": 2,
        "ms": 100.0, "cpu_s": 0.2, "rate": 200.0, "peak_mib": 300.0,
        "start_s": 1.0, "device": "cpu", **values,
    }  # fmt: skip


def test_rows_are_kept_until_measured_anew(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "rows.json"
    performance._keep(path, "cpu", [row_of("a", "plain"), row_of("b", "plain")])
    performance._keep(path, "cpu", [row_of("a", "plain", ms=1.0)])
    kept = json.loads(path.read_text(encoding="utf-8"))
    assert [(row["model"], row["ms"]) for row in kept["rows"]] == [("a", 1.0), ("b", 100.0)]
    assert kept["device"] == "cpu"


def test_page_and_figure(tmp_path: Path) -> None:
    rows = [
        row_of("a", "1 target"),
        row_of("a", "1 target", threads=1, ms=180.0, peak_mib=200.0),
        row_of("a", "4 targets", threads=1, ms=700.0),
        row_of("a", "4 targets", ms=400.0),
        row_of("a", "1 target", precision="int8", threads=1, ms=90.0, box_iou=0.9976),
        row_of("b", "plain"),
        row_of("b", "memory", ms=120.0),
    ]
    fp32, int8, other = performance_page.summary(rows)
    assert (fp32["1 thread, ms"], fp32["2 threads, ms"], fp32["MiB"]) == (180.0, 100.0, 200.0)
    assert (fp32["4 targets, ms"], int8["box IoU"]) == (700.0, "0.998")
    assert (other["model"], other["2 threads, ms"]) == ("b", 100.0)
    assert "4 targets, ms" not in other
    (late,) = performance_page.other_work(rows)
    assert (late["image"], late["2 threads, ms"]) == ("memory", 120.0)
    run = {"machine": "a machine", "device": "cpu", "rows": rows}
    gpu = {"machine": "a GPU", "device": "cuda", "rows": rows[:1]}
    page, figure = tmp_path / "docs" / "page.md", tmp_path / "docs" / "media" / "figure.png"
    performance_page.plot([run, gpu], figure)
    performance_page.write_page({Path("cpu.json"): run, Path("gpu.json"): gpu}, page, figure)
    text = page.read_text(encoding="utf-8")
    assert figure.stat().st_size > 1000
    assert "![Time per image](media/figure.png)" in text
    assert "| a | torch | int8 | **90.0** |" in text
    assert "| b | torch | memory | 120.0 |" in text
    assert text.index("## On a CPU") < text.index("## On a GPU")
