# SPDX-License-Identifier: Apache-2.0
"""Recording and replaying: with a stand-in for the recording, and for real on a GPU."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch

from tracker_ros.engines import cuda_graph_engine, gate
from tracker_ros.engines.cuda_graph_engine import CudaGraphEngine
from tracker_ros.engines.graph import EngineUnavailable, Graph
from tracker_ros.engines.torch_engine import TorchEngine

CPU = torch.device("cpu")


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recording that computes into the same memory again, as that of a GPU does."""

    def record(run: Callable[[], None], device: torch.device) -> Callable[[], None]:
        run()
        engine = run.__self__  # type: ignore[attr-defined]
        first = dict(engine._outputs)

        def replay() -> None:
            run()
            for name, tensor in first.items():
                with torch.inference_mode():
                    tensor.copy_(engine._outputs[name])
            engine._outputs = first

        return replay

    monkeypatch.setattr(cuda_graph_engine, "record", record)


def test_a_recording_reads_new_inputs_and_reuses_its_outputs(
    doubling: Graph, recording: None
) -> None:
    shared = doubling.example(0)
    graph = dataclasses.replace(doubling, example=lambda seed: shared)
    engine = CudaGraphEngine(graph, "fp32", CPU)
    assert engine.runs_on["cuda_graph"] == "yes"
    first = engine(values=torch.tensor([1.0, 0.0, 0.0]))["sums"]
    assert first.tolist() == [3.0, 2.0, 3.0]
    second = engine(values=torch.tensor([0.0, 0.0, 5.0]))["sums"]
    assert second.tolist() == [1.0, 2.0, 13.0]
    assert first is second
    assert shared["values"].tolist() == [0.0, 1.0, 2.0]
    with pytest.raises(ValueError, match=r"graph 'double': input 'values' is float32 \(4,\)"):
        engine(values=torch.zeros(4))


def test_it_equals_torch(ostrack_graphs: list[Graph], recording: None) -> None:
    for graph in ostrack_graphs:
        report = gate.examine(CudaGraphEngine(graph, "fp32", CPU), graph, "fp32", 2)
        assert report.passed, report.problems


def test_what_cannot_be_recorded_runs_operator_by_operator(
    doubling: Graph, monkeypatch: pytest.MonkeyPatch, logged: list[str]
) -> None:
    def refuse(run: Callable[[], None], device: torch.device) -> Callable[[], None]:
        raise RuntimeError("operation not permitted when stream is capturing\nmore lines")

    monkeypatch.setattr(cuda_graph_engine, "record", refuse)
    engine = CudaGraphEngine(doubling, "fp32", CPU)
    assert engine.runs_on["cuda_graph"] == "no"
    assert engine(values=torch.zeros(3))["sums"].tolist() == [1.0, 2.0, 3.0]
    (line,) = logged
    assert "graph 'double' cannot be recorded on cpu (operation not permitted" in line
    assert "more lines" not in line


def test_half_precision_is_for_gpus(doubling: Graph) -> None:
    with pytest.raises(EngineUnavailable, match="no fast half precision on CPUs"):
        TorchEngine(doubling, "fp16", CPU)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("model", ["ostrack_graphs", "grm_graphs", "mast_graphs"])
def test_a_gpus_recording_equals_torch(
    model: str, precision: str, request: pytest.FixtureRequest
) -> None:
    for graph in request.getfixturevalue(model):
        engine = CudaGraphEngine(graph, precision, torch.device("cuda", 0))
        assert engine.runs_on["cuda_graph"] == "yes"
        report = gate.examine(engine, graph, engine.precision)
        assert report.passed, report.problems
