# SPDX-License-Identifier: Apache-2.0
"""Several targets of a one-stream tracker in one pass of an engine."""

from __future__ import annotations

import gc
import shutil
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_networks import SMALL_OSTRACK
from torch import Tensor

from tracker_ros.engines import parity_check
from tracker_ros.engines.graph import Engine, EngineUnavailable, Graph
from tracker_ros.engines.onnx_engine import OnnxRuntimeEngine, exported_graph
from tracker_ros.engines.select_backend import Backend
from tracker_ros.engines.torch_engine import CudaGraphEngine, TorchEngine
from tracker_ros.models.one_stream.config import OSTRACK_TINY
from tracker_ros.models.one_stream.export import ostrack_graphs as make_ostrack_graphs
from tracker_ros.models.one_stream.on_engines import OneStreamOnEngines
from tracker_ros.models.one_stream.ostrack import OSTrackNetwork
from tracker_ros.models.one_stream.tracker import OneStreamTracker, track_batch
from tracker_ros.synthetic.scene_video import synthetic_video

CPU = torch.device("cpu")
TOLERANCE = 2e-5
ELIMINATING = replace(SMALL_OSTRACK, depth=3, ce_template_range="CTR_REC")


@pytest.fixture(scope="session")
def eliminating_graphs() -> list[Graph]:
    """Random weights; candidates are ranked by the template's middle."""
    torch.manual_seed(0)
    return make_ostrack_graphs(OSTrackNetwork(ELIMINATING).eval())


families = pytest.mark.parametrize("model", ["ostrack_graphs", "grm_graphs", "eliminating_graphs"])


def several(graph: Graph, samples: int) -> Graph:
    assert graph.batched is not None
    return graph.batched(samples)


def one_by_one(graph: Graph, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the graph of one target makes of each sample."""
    engine = TorchEngine(graph, "fp32", CPU)
    count = len(inputs["search"])
    each = [engine(**{name: t[i : i + 1] for name, t in inputs.items()}) for i in range(count)]
    return {name: torch.cat([one[name] for one in each]) for name in graph.spec.outputs}


def assert_equal(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    for name, expected in wanted.items():
        torch.testing.assert_close(found[name], expected, rtol=0, atol=TOLERANCE)


@families
def test_each_sample_gets_the_numbers_that_it_would_get_alone(
    model: str, request: pytest.FixtureRequest
) -> None:
    graph = request.getfixturevalue(model)[1]
    together = several(graph, 3)
    assert (together.spec.name, together.samples) == ("track_3", 3)
    inputs = together.example(5)
    assert (inputs["search"][0] - inputs["search"][1]).abs().max() > 0.1
    assert (inputs["tokens"][1] - inputs["tokens"][2]).abs().max() > 0.1
    wanted = one_by_one(graph, inputs)
    assert (wanted["score"][0] - wanted["score"][1]).abs().max() > 50 * TOLERANCE
    assert_equal(TorchEngine(together, "fp32", CPU)(**inputs), wanted)


@families
def test_so_does_onnx_runtime(
    model: str, request: pytest.FixtureRequest, open_onnx: Callable[..., OnnxRuntimeEngine]
) -> None:
    graph = request.getfixturevalue(model)[1]
    together = several(graph, 2)
    engine, inputs = open_onnx(together, "fp32"), together.example(0)
    assert_equal(engine(**inputs), one_by_one(graph, inputs))
    report = parity_check.examine(engine, together, "fp32", crops=6)
    assert report.passed, report.problems
    assert report.crops == 6


def test_the_parity_check_notices_samples_that_are_mixed_up(ostrack_graphs: list[Graph]) -> None:
    together = several(ostrack_graphs[1], 2)
    engine = TorchEngine(together, "fp32", CPU)

    def swapped(**inputs: Tensor) -> dict[str, Tensor]:
        return {name: t.flip(0) for name, t in engine(**inputs).items()}

    assert not parity_check.examine(swapped, together, "fp32", crops=4).passed


def test_engines_for_any_number_of_targets_share_the_weights(doubling: Graph) -> None:
    first, second = (TorchEngine(doubling, "fp32", CPU) for _ in range(2))
    assert first._module is second._module is not doubling.module
    before = id(first._module)
    with torch.no_grad():
        doubling.module.weight += 1
    del first, second
    gc.collect()
    anew = TorchEngine(doubling, "fp32", CPU)
    assert anew(values=torch.zeros(3))["sums"].tolist() == [2.0, 3.0, 4.0], before


def test_the_template_graph_holds_what_it_uses(
    ostrack_graphs: list[Graph], eliminating_graphs: list[Graph]
) -> None:
    for template, track, *_ in (ostrack_graphs, eliminating_graphs):
        held = {name.partition(".")[0] for name in template.module.state_dict()}
        marks = {"target_mark"} & held
        assert held - marks == {"patch_embed", "pos_embed_z"}
        assert bool(marks) == ("box" in template.spec.inputs)
        assert track.spec.name == "track"


class Reusing(Engine):
    """Returns the same memory at every call, as a recording does, and counts them."""

    backend, precision = "torch", "fp32"

    def __init__(self, graph: Graph, device: str) -> None:
        self._engine = TorchEngine(graph, "fp32", CPU)
        self.spec, self.device = graph.spec, device
        self.calls = 0
        self._outputs = {name: torch.empty(o.shape) for name, o in graph.spec.outputs.items()}

    def __call__(self, **tensors: Tensor) -> dict[str, Tensor]:
        self.calls += 1
        for name, found in self._engine(**tensors).items():
            self._outputs[name].copy_(found)
        return dict(self._outputs)


class Opened:
    """Opens engines, and knows them by name."""

    def __init__(self, device: str, refused: tuple[str, ...] = ()) -> None:
        self.device, self.refused = device, refused
        self.engines: dict[str, Reusing] = {}
        self.asked: list[str] = []

    def __call__(self, graph: Graph) -> Engine:
        name = graph.spec.name
        self.asked.append(name)
        if name in self.refused:
            raise EngineUnavailable(f"no engine for {name}")
        self.engines[name] = Reusing(graph, self.device)
        return self.engines[name]

    @property
    def calls(self) -> dict[str, int]:
        """Of the graphs per frame."""
        counted = {name: engine.calls for name, engine in self.engines.items()}
        return {name: calls for name, calls in counted.items() if name != "template" and calls}


def of_targets(graph: Graph, count: int) -> dict[str, Tensor]:
    """Inputs of so many targets."""
    return several(graph, count).example(3)


@pytest.mark.parametrize(
    ("device", "count", "calls"),
    [
        ("cpu", 2, {"track_2": 1}),
        ("cpu", 3, {"track_2": 1, "track": 1}),
        ("cpu", 7, {"track_4": 1, "track_2": 1, "track": 1}),
        ("cuda:0", 3, {"track_4": 1}),
        ("cuda:0", 5, {"track_8": 1}),
        ("cuda:0", 9, {"track_8": 1, "track": 1}),
        ("cuda:0", 16, {"track_8": 2}),
    ],
)
def test_targets_share_passes(
    device: str, count: int, calls: dict[str, int], eliminating_graphs: list[Graph]
) -> None:
    track, opened = eliminating_graphs[1], Opened(device)
    model = OneStreamOnEngines(ELIMINATING, eliminating_graphs, opened, opened)
    assert opened.asked == ["template", "track"]
    inputs = of_targets(track, count)
    for _ in range(2):
        maps = model.locate_batch(inputs["tokens"].split(1), inputs["search"])
    assert opened.calls == {name: 2 * number for name, number in calls.items()}
    assert len(opened.asked) == len(set(opened.asked)), "engines are kept"
    assert_equal(maps._asdict(), one_by_one(track, inputs))


@pytest.mark.parametrize(
    ("device", "graph", "times"), [("cpu", "track_2", 2), ("cuda:0", "track_8", 1)]
)
def test_engines_for_several_targets_are_freed_on_a_cpu(
    device: str, graph: str, times: int, ostrack_graphs: list[Graph]
) -> None:
    opened = Opened(device)
    model = OneStreamOnEngines(OSTRACK_TINY, ostrack_graphs, opened, opened)
    inputs = of_targets(ostrack_graphs[1], 2 if device == "cpu" else 5)
    maps = [model.locate_batch(inputs["tokens"].split(1), inputs["search"])]
    engine = weakref.ref(opened.engines.pop(graph))
    OneStreamTracker(model).trim()
    assert (engine() is None) == (times == 2)
    maps.append(model.locate_batch(inputs["tokens"].split(1), inputs["search"]))
    assert opened.asked.count(graph) == times
    assert_equal(maps[0]._asdict(), maps[1]._asdict())


def test_what_cannot_be_opened_is_told_once_and_done_without(
    eliminating_graphs: list[Graph], logged: list[str]
) -> None:
    track, opened = eliminating_graphs[1], Opened("cuda:0", refused=("track_4", "track_8"))
    model = OneStreamOnEngines(ELIMINATING, eliminating_graphs, opened, opened)
    inputs = of_targets(track, 5)
    for _ in range(2):
        maps = model.locate_batch(inputs["tokens"].split(1), inputs["search"])
    assert opened.calls == {"track_2": 4, "track": 2}
    assert_equal(maps._asdict(), one_by_one(track, inputs))
    (line,) = logged
    assert "8 targets cannot be looked at together" in line
    assert "no engine for track_8" in line
    assert "--targets" in line
    assert len(opened.asked) == len(set(opened.asked)), "and tried once"


def test_nothing_is_exported_between_images(
    ostrack_graphs: list[Graph],
    open_onnx: Callable[..., OnnxRuntimeEngine],
    shared_engines: Path,
    tmp_path: Path,
    logged: list[str],
) -> None:
    def provide(graph: Graph) -> None:
        """Put a graph into the folder of the test, exported by this test or another."""
        open_onnx(graph, "fp32")
        (tmp_path / "onnx").mkdir(exist_ok=True)
        path = exported_graph(graph, "fp32", shared_engines, model="ostrack_tiny", build=False)
        for file in path.parent.glob(f"{path.stem}.*"):
            shutil.copy(file, tmp_path / "onnx")

    for graph in ostrack_graphs:
        provide(graph)
    backend = Backend("onnxruntime", CPU, "fp32", "ostrack_tiny", tmp_path, build=True)
    model = OneStreamOnEngines.on_backend(OSTRACK_TINY, ostrack_graphs, backend)
    inputs = of_targets(ostrack_graphs[1], 2)
    templates = inputs["tokens"].split(1)
    alone = model.locate_batch(templates, inputs["search"])
    (line,) = logged
    assert "graph 'track_2' is not exported" in line
    assert not list(tmp_path.rglob("*-track_2*"))
    assert "parity track_2" not in model.runtime_info

    provide(several(ostrack_graphs[1], 2))
    exported = OneStreamOnEngines.on_backend(OSTRACK_TINY, ostrack_graphs, backend)
    together = exported.locate_batch(templates, inputs["search"])
    assert_equal(together._asdict(), alone._asdict())
    assert len(logged) == 1


def test_trackers_find_together_what_each_finds_alone(ostrack_graphs: list[Graph]) -> None:
    opened = Opened("cpu")
    model = OneStreamOnEngines(OSTRACK_TINY, ostrack_graphs, opened, opened)
    first, *later = synthetic_video(seed=3, frames=4, size=(320, 240))
    x, y, w, h = first.box
    boxes = [(x, y, w, h), (x + 10, y + 5, w, h), (20.0, 20.0, 40.0, 30.0)]
    together, alone = ([OneStreamTracker(model) for _ in boxes] for _ in range(2))
    for trackers in (together, alone):
        for tracker, box in zip(trackers, boxes, strict=True):
            tracker.initialize(first.image, box)
    for frame in later:
        found = track_batch(together, [frame.image] * len(boxes))
        for result, tracker in zip(found, alone, strict=True):
            wanted = tracker.track(frame.image)
            assert result.box == pytest.approx(wanted.box, abs=0.02)
            assert result.score_map is not None
            assert wanted.score_map is not None
            np.testing.assert_allclose(result.score_map, wanted.score_map, atol=1e-4)
    calls = opened.calls
    assert sum(calls.get(name, 0) for name in ("track_2", "track_128px_2")) >= 3
    assert calls["track_128px"] > 0, "a calm target is searched in the narrow region"


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@families
def test_recordings_for_any_number_of_targets_equal_torch(
    model: str, precision: str, request: pytest.FixtureRequest
) -> None:
    graph, device = request.getfixturevalue(model)[1], torch.device("cuda", 0)
    alone = CudaGraphEngine(graph, precision, device)
    for samples in (2, 4, 8):
        together = several(graph, samples)
        engine = CudaGraphEngine(together, precision, device)
        assert engine.runtime_info["cuda_graph"] == "yes"
        assert engine._module is alone._module
        report = parity_check.examine(engine, together, engine.precision)
        assert report.passed, report.problems
