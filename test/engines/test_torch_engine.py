# SPDX-License-Identifier: Apache-2.0
"""Recording and replaying: with a stand-in for the recording, and for real on a GPU."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tracker_ros.engines import parity_check, torch_engine
from tracker_ros.engines.graph import EngineUnavailable, Graph
from tracker_ros.engines.torch_engine import CudaGraphEngine, TorchEngine, record

CPU = torch.device("cpu")


@dataclass
class FakeCuda:
    """A stand-in for what `record` asks of torch.cuda; it knows devices and streams by name.

    Like torch, it leaves the stream of a recording that fails the current one.
    """

    index: int = 0
    streams: dict[int, str] = field(default_factory=lambda: {0: "first 0", 1: "first 1"})
    made: int = 0
    ran_on: list[str] = field(default_factory=list)
    recordings: list[tuple[str, str]] = field(default_factory=list)

    @contextmanager
    def device(self, device: torch.device) -> Iterator[None]:
        before, self.index = self.index, device.index
        yield
        self.index = before

    def current_stream(self) -> SimpleNamespace:
        return SimpleNamespace(name=self.streams[self.index], device_index=self.index)

    def set_stream(self, stream: SimpleNamespace) -> None:
        self.streams[self.index] = stream.name

    def Stream(self, index: int) -> SimpleNamespace:  # noqa: N802
        self.made += 1
        return SimpleNamespace(name=f"recording {index}", device_index=index)

    def CUDAGraph(self) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(replay="replay")

    @contextmanager
    def graph(
        self, recording: SimpleNamespace, stream: SimpleNamespace, capture_error_mode: str
    ) -> Iterator[None]:
        assert torch_engine._RECORDING.locked(), "another thread could record meanwhile"
        self.recordings.append((stream.name, capture_error_mode))
        before = self.current_stream()
        self.set_stream(stream)
        yield
        self.set_stream(before)

    def run(self) -> None:
        self.ran_on.append(self.streams[self.index])


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCuda]:
    fake = FakeCuda()
    for name in ("device", "current_stream", "set_stream", "Stream", "CUDAGraph", "graph"):
        monkeypatch.setattr(torch.cuda, name, getattr(fake, name))
    torch_engine._recording_stream.cache_clear()
    yield fake
    torch_engine._recording_stream.cache_clear()


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

    monkeypatch.setattr(torch_engine, "record", record)


def test_a_recording_reads_new_inputs_and_reuses_its_outputs(
    doubling: Graph, recording: None
) -> None:
    shared = doubling.example(0)
    graph = dataclasses.replace(doubling, example=lambda seed: shared)
    engine = CudaGraphEngine(graph, "fp32", CPU)
    assert engine.runtime_info["cuda_graph"] == "yes"
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
        report = parity_check.examine(CudaGraphEngine(graph, "fp32", CPU), graph, "fp32", 2)
        assert report.passed, report.problems


def test_what_cannot_be_recorded_runs_operator_by_operator(
    doubling: Graph, monkeypatch: pytest.MonkeyPatch, logged: list[str]
) -> None:
    def refuse(run: Callable[[], None], device: torch.device) -> Callable[[], None]:
        raise RuntimeError("operation not permitted when stream is capturing\nmore lines")

    monkeypatch.setattr(torch_engine, "record", refuse)
    engine = CudaGraphEngine(doubling, "fp32", CPU)
    assert engine.runtime_info["cuda_graph"] == "no"
    assert engine(values=torch.zeros(3))["sums"].tolist() == [1.0, 2.0, 3.0]
    (line,) = logged
    assert "graph 'double' cannot be recorded on cpu (operation not permitted" in line
    assert "more lines" not in line


def test_every_gpu_has_one_stream_to_record_on(cuda: FakeCuda) -> None:
    for index in (0, 1, 0):
        assert record(cuda.run, torch.device("cuda", index)) == "replay"
    assert cuda.recordings == [(f"recording {index}", "thread_local") for index in (0, 1, 0)]
    assert cuda.made == 2
    assert cuda.ran_on[:4] == ["first 0"] * 3 + ["recording 0"]
    assert cuda.ran_on[4:8] == ["first 1"] * 3 + ["recording 1"]


def test_a_recording_that_fails_leaves_the_stream_as_it_was(cuda: FakeCuda) -> None:
    def run() -> None:
        if cuda.recordings:
            raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(RuntimeError, match="not permitted"):
        record(run, torch.device("cuda", 1))
    assert cuda.streams == {0: "first 0", 1: "first 1"}
    assert not torch_engine._RECORDING.locked()


def test_half_precision_has_channels_innermost(mast_graphs: list[Graph]) -> None:
    (graph,) = mast_graphs
    meta = torch.device("meta")  # a device that is not a CPU
    engines = {precision: TorchEngine(graph, precision, meta) for precision in ("fp16", "fp32")}

    def innermost(engine: TorchEngine) -> set[bool]:
        weights = [m.weight for m in engine._module.modules() if isinstance(m, nn.Conv2d)]
        # Of a 1 x 1 convolution both layouts are the same.
        weights = [w for w in weights if w.shape[2] > 1 and w.shape[1] > 1]
        return {w.is_contiguous(memory_format=torch.channels_last) for w in weights}

    assert innermost(engines["fp16"]) == {True}
    assert innermost(engines["fp32"]) == {False}


@pytest.mark.parametrize("model", ["ostrack_graphs", "grm_graphs", "mast_graphs"])
def test_graphs_compute_the_same_with_channels_innermost(
    model: str, request: pytest.FixtureRequest
) -> None:
    for graph in request.getfixturevalue(model):
        engine = TorchEngine(graph, "fp32", CPU)
        engine._module.to(memory_format=torch.channels_last)
        assert parity_check.examine(engine, graph, "fp32", 2).passed


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
        assert engine.runtime_info["cuda_graph"] == "yes"
        report = parity_check.examine(engine, graph, engine.precision)
        assert report.passed, report.problems


@pytest.mark.gpu
@pytest.mark.parametrize("index", [0, 1])
def test_on_a_gpu_a_recording_that_fails_leaves_all_as_it_was(index: int, doubling: Graph) -> None:
    if torch.cuda.device_count() <= index:
        pytest.skip(f"needs {index + 1} CUDA devices")
    device = torch.device("cuda", index)
    one = torch.ones(3, device=device)
    before = torch.cuda.current_stream(device)

    def read() -> None:
        one.tolist()  # waits for the GPU, which cannot be recorded

    with pytest.raises(RuntimeError):
        record(read, device)
    assert torch.cuda.current_stream(device) == before
    engine = CudaGraphEngine(doubling, "fp32", device)
    assert engine.runtime_info["cuda_graph"] == "yes"
    assert engine(values=torch.ones(3))["sums"].tolist() == [3.0, 4.0, 5.0]
