# SPDX-License-Identifier: Apache-2.0
"""Every model's graphs, exported and computed by ONNX Runtime, against torch."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tracker_ros.engines import onnxruntime_engine
from tracker_ros.engines import parity_check as gate
from tracker_ros.engines.graph import EngineUnavailable, Graph
from tracker_ros.engines.onnxruntime_engine import OnnxRuntimeEngine, open_engine

CPU = torch.device("cpu")
CROPS = 6

models = pytest.mark.parametrize("model", ["ostrack_graphs", "grm_graphs", "mast_graphs"])


@models
def test_single_precision_equals_torch(
    model: str, request: pytest.FixtureRequest, open_onnx: Callable[..., OnnxRuntimeEngine]
) -> None:
    for graph in request.getfixturevalue(model):
        report = gate.examine(open_onnx(graph, "fp32"), graph, "fp32", CROPS)
        assert report.passed, report.problems
        worst = max(figures.relative_error for figures in report.outputs.values())
        assert worst < 1e-4, (graph.spec.name, report.outputs)


@models
def test_half_precision_finds_the_same(
    model: str, request: pytest.FixtureRequest, open_onnx: Callable[..., OnnxRuntimeEngine]
) -> None:
    graph = request.getfixturevalue(model)[-1]
    engine = open_onnx(graph, "fp16")
    assert engine.precision == "fp16"
    report = gate.examine(engine, graph, "fp16", CROPS)
    assert report.passed, report.problems
    differing = max(figures.relative_error for figures in report.outputs.values())
    assert differing > 1e-6, "nothing was computed in half precision"


def test_wrong_calls_name_graph_and_tensor(
    ostrack_graphs: list[Graph], open_onnx: Callable[..., OnnxRuntimeEngine]
) -> None:
    engine = open_onnx(ostrack_graphs[0], "fp32")
    given = ostrack_graphs[0].example(0)
    with pytest.raises(ValueError, match="graph 'template': input 'box' is missing"):
        engine(template=given["template"])
    with pytest.raises(ValueError, match=r"'template' is float32 \(2, 3, 96, 96\); expected"):
        engine(template=given["template"].expand(2, -1, -1, -1), box=given["box"])


def test_a_session_that_fails_is_named(
    ostrack_graphs: list[Graph],
    open_onnx: Callable[..., OnnxRuntimeEngine],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = open_onnx(ostrack_graphs[0], "fp32")
    given = ostrack_graphs[0].example(0)
    monkeypatch.setattr(engine, "spec", ostrack_graphs[1].spec)  # outputs that it does not have
    monkeypatch.setattr(type(engine.spec), "check", lambda *_: None)
    with pytest.raises(RuntimeError, match="ONNX Runtime failed on graph 'track': .*'torch'"):
        engine(**given)


def test_a_file_that_is_no_model_is_named(doubling: Graph, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(EngineUnavailable, match=r"cannot load model\.onnx: .*delete it"):
        OnnxRuntimeEngine(doubling.spec, path, "fp32", CPU)


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_gpu_that_its_provider_cannot_use_is_named(
    ostrack_graphs: list[Graph],
    open_onnx: Callable[..., OnnxRuntimeEngine],
    onnx_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A provider may be there without the libraries that it loads: then a CPU is used."""
    import onnxruntime

    open_onnx(ostrack_graphs[0], "fp32")
    known = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: known)
    device = torch.device("cuda", 0)
    with pytest.raises(EngineUnavailable, match="would run on CPUExecutionProvider: install"):
        open_engine(ostrack_graphs[0], "fp32", onnx_folder, build=False, device=device)


def test_a_missing_package_or_provider_is_named(
    doubling: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(EngineUnavailable, match="no CUDA provider, only .*onnxruntime-gpu"):
        open_engine(doubling, "fp32", tmp_path, build=True, device=torch.device("cuda", 0))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not onnxruntime_engine.is_installed()
    with pytest.raises(EngineUnavailable, match="not installed: pip install onnxruntime"):
        open_engine(doubling, "fp32", tmp_path, build=True, device=CPU)
