# SPDX-License-Identifier: Apache-2.0
"""Real TensorRT as far as a machine without a GPU goes: every graph is parsed and built.

The package tensorrt_rtx builds ahead of time on a CPU. It computes on GPUs only, so the numbers of
its plans are not looked at here.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tracker_ros.engines import tensorrt_engine
from tracker_ros.engines.graph import EngineUnavailable, Graph
from tracker_ros.engines.onnx_engine import exported_graph
from tracker_ros.engines.tensorrt_engine import ATTEMPTS, TensorRTEngine, TensorRTOpener

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="tensorrt_rtx is not installed (dev/requirements.txt lists it)",
)
CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def trt() -> ModuleType:
    return importlib.import_module("tensorrt_rtx")


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("family", ["ostrack", "grm", "trdimp", "mast"])
def test_every_graph_is_parsed_and_built(
    family: str,
    precision: str,
    shared_engines: Path,
    model_of: Callable[[Graph], str],
    trt: ModuleType,
    request: pytest.FixtureRequest,
    record_property: pytest.RecordProperty,
) -> None:
    graphs: list[Graph] = request.getfixturevalue(f"{family}_graphs")
    sizes = {}
    for graph in graphs:
        if graph.precision(precision) != precision:
            continue  # it stays in float32, where it is built too
        model = model_of(graph)
        path = exported_graph(graph, precision, shared_engines, model=model, build=True)
        onnx = path.read_bytes()
        start = time.monotonic()
        plan = tensorrt_engine.build_plan(trt, onnx, graph.spec.name)
        record_property(f"seconds to build {graph.spec.name}", time.monotonic() - start)
        sizes[graph.spec.name] = (len(plan), len(onnx))
    assert sizes
    # A plan holds the weights, as does the file that it is made of.
    assert {name: size for name, size in sizes.items() if size[0] < size[1] / 2} == {}


def test_half_precision_products_are_built_too(
    grm_graphs: list[Graph], shared_engines: Path, trt: ModuleType
) -> None:
    mixed = ATTEMPTS["fp16"][1]
    path = exported_graph(grm_graphs[-1], mixed, shared_engines, model="random", build=True)
    assert tensorrt_engine.build_plan(trt, path.read_bytes(), "track")


@pytest.mark.parametrize("damage", ["truncated", "no ONNX", "empty"])
def test_what_is_no_onnx_is_refused_with_the_parser_s_words(
    doubling: Graph, shared_engines: Path, trt: ModuleType, damage: str
) -> None:
    onnx = exported_graph(
        doubling, "fp32", shared_engines, model="random", build=True
    ).read_bytes()
    broken = {"truncated": onnx[: len(onnx) // 2], "no ONNX": b"rubbish", "empty": b""}[damage]
    with pytest.raises(EngineUnavailable, match="TensorRT .* graph 'double': ") as raised:
        tensorrt_engine.build_plan(trt, broken, "double")
    assert "it gave no reason" not in str(raised.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU can load the plan")
def test_without_a_gpu_a_plan_is_not_loaded(
    doubling: Graph, shared_engines: Path, trt: ModuleType
) -> None:
    onnx = exported_graph(
        doubling, "fp32", shared_engines, model="random", build=True
    ).read_bytes()
    plan = tensorrt_engine.build_plan(trt, onnx, "double")
    with pytest.raises(EngineUnavailable, match="cannot load the plan of graph 'double': ") as no:
        TensorRTEngine(doubling.spec, plan, "fp32", CPU, trt)
    assert "Cuda Runtime" in str(no.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU can load the plan")
def test_a_plan_that_is_not_loaded_leaves_the_work_to_torch(
    doubling: Graph, tmp_path: Path, trt: ModuleType
) -> None:
    engine = TensorRTOpener(trt, tmp_path / "engines", "toy", True, CPU).open(doubling, "fp32")
    assert engine.backend == "torch"
    assert "cannot load the plan" in engine.runtime_info["fallback"]
    inputs = doubling.example(3)
    assert torch.equal(engine(**inputs)["sums"], doubling.module(*inputs.values())[0])


def test_the_package_is_found(trt: ModuleType) -> None:
    found = tensorrt_engine.load_tensorrt()
    assert found.__name__ in tensorrt_engine.MODULES
    key = tensorrt_engine.engine_key(found, "toy track", "0" * 64, "fp32", CPU)
    assert key.parts["tensorrt"] == f"{found.__name__} {found.__version__}"
