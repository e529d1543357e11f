# SPDX-License-Identifier: Apache-2.0
"""Graphs as ONNX: what is exported and refused, and what ONNX Runtime computes beside torch."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tracker_ros.checkpoints import sha256_of
from tracker_ros.engines import onnx_engine, parity_check
from tracker_ros.engines.graph import EngineUnavailable, Graph, TensorSpec
from tracker_ros.engines.onnx_engine import (
    ALLOWED_OPERATORS,
    OPSET,
    OnnxRuntimeEngine,
    export_onnx,
    exported_graph,
    graph_cache,
    graph_key,
    open_engine,
)

CPU = torch.device("cpu")
CROPS = 6


def test_the_manifest_says_what_was_written(doubling: Graph, tmp_path: Path) -> None:
    path = exported_graph(doubling, "fp32", tmp_path, model="m", build=True)
    manifest = json.loads(path.with_suffix(".json").read_text())
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert manifest["subject"] == "m double"
    reference = path.with_suffix(".safetensors")
    assert manifest["sha256"] == {
        ".onnx": sha256_of(path),
        ".safetensors": sha256_of(reference),
    }
    manifest = manifest["info"]
    assert manifest["inputs"] == {"values": {"shape": [3], "dtype": "float32"}}
    assert manifest["outputs"] == {"sums": {"shape": [3], "dtype": "float32"}}
    assert manifest["operators"] == {"Add": 1, "Mul": 1}
    assert {"torch", "onnx", "onnxscript", "tracker_ros"} <= set(manifest["tools"])
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET)]
    tensors = load_file(reference)
    assert torch.equal(tensors["output.sums"], torch.tensor([1.0, 4.0, 7.0]))
    assert torch.equal(tensors["input.values"], doubling.example(0)["values"])
    assert not list(tmp_path.rglob("*.part"))


def test_a_graph_is_exported_once_and_again_when_damaged(doubling: Graph, tmp_path: Path) -> None:
    path = exported_graph(doubling, "fp32", tmp_path, model="m", build=True)
    written = path.stat().st_mtime_ns
    os.utime(path, ns=(written, written - 10**9))
    assert exported_graph(doubling, "fp32", tmp_path, model="m", build=False) == path
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(EngineUnavailable, match="'double' is not exported in fp32"):
        exported_graph(doubling, "fp32", tmp_path, model="m", build=False)
    assert (
        exported_graph(doubling, "fp32", tmp_path, model="m", build=True).read_bytes() == content
    )
    path.with_suffix(".json").unlink()
    with pytest.raises(EngineUnavailable, match="run `tracker-ros export`"):
        exported_graph(doubling, "fp32", tmp_path, model="m", build=False)


def test_the_key_follows_weights_settings_and_precision(doubling: Graph) -> None:
    key = graph_key(doubling, "fp32", "m")
    assert key == graph_key(doubling, "fp32", "m")
    other = dataclasses.replace(doubling, spec=dataclasses.replace(doubling.spec, settings="b"))
    keys = [key, graph_key(doubling, "fp16", "m"), graph_key(other, "fp32", "m")]
    assert len({key.stem for key in keys}) == 3
    with torch.no_grad():
        doubling.module.weight += 1
    assert graph_key(doubling, "fp32", "m").differences(key)[0].startswith("weights is ")


def test_what_must_stay_single_is_exported_in_single(doubling: Graph, tmp_path: Path) -> None:
    spec = dataclasses.replace(doubling.spec, half=False)
    path = exported_graph(
        dataclasses.replace(doubling, spec=spec), "fp16", tmp_path, model="m", build=True
    )
    assert json.loads(path.with_suffix(".json").read_text())["key"]["precision"] == "fp32"


def test_half_precision_has_no_numbers_of_another_type(
    ostrack_graphs: list[Graph], shared_engines: Path
) -> None:
    """Types are fixed in torch: weights in half, layer norms and softmaxes in single."""
    track = ostrack_graphs[1]
    model = onnx.load(
        exported_graph(track, "fp16", shared_engines, model="ostrack_tiny", build=True)
    )
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in onnx.shape_inference.infer_shapes(model).graph.value_info
    }
    half, single = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    found = {
        kind: {types[node.output[0]] for node in model.graph.node if node.op_type == kind}
        for kind in ("Conv", "MatMul", "Softmax", "LayerNormalization")
    }
    assert found["Conv"] == found["MatMul"] == {half}
    assert found["Softmax"] == found["LayerNormalization"] == {single}
    for value in (*model.graph.input, *model.graph.output):
        assert value.type.tensor_type.elem_type == single


class Sorting(nn.Module):
    def forward(self, values: Tensor) -> tuple[Tensor]:
        return (torch.linalg.det(values.reshape(1, 1, 3) * values.reshape(1, 3, 1)).expand(3),)


def test_an_operator_that_is_not_allowed_is_named(doubling: Graph, tmp_path: Path) -> None:
    assert "Det" not in ALLOWED_OPERATORS
    with pytest.raises(EngineUnavailable, match="graph 'double' needs the operators Det"):
        exported_graph(
            dataclasses.replace(doubling, module=Sorting()),
            "fp32",
            tmp_path,
            model="m",
            build=True,
        )
    assert {path.suffix for path in (tmp_path / "onnx").iterdir()} <= {".lock"}


class Branching(nn.Module):
    def forward(self, values: Tensor) -> tuple[Tensor]:
        return (values if bool(values.sum() > 0) else -values,)


def test_what_torch_cannot_export_is_named(doubling: Graph) -> None:
    with pytest.raises(EngineUnavailable, match="graph 'double' cannot be exported"):
        export_onnx(dataclasses.replace(doubling, module=Branching()), "fp32")


def test_outputs_are_held_to_the_spec(doubling: Graph) -> None:
    spec = dataclasses.replace(doubling.spec, outputs={"sums": TensorSpec((4,))})
    with pytest.raises(EngineUnavailable, match=r"'double' returns \{'sums': \(3,\)\}"):
        export_onnx(dataclasses.replace(doubling, spec=spec), "fp32")


def test_a_missing_exporter_is_named(doubling: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(EngineUnavailable, match="pip install onnx onnxscript"):
        export_onnx(doubling, "fp32")


def test_an_unknown_precision_is_refused(doubling: Graph, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="precision 'bf16' .*expected fp32 or fp16"):
        exported_graph(doubling, "bf16", tmp_path, model="m", build=True)


def test_an_export_makes_room_by_what_was_used_longest_ago(
    doubling: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs = [
        dataclasses.replace(doubling, spec=dataclasses.replace(doubling.spec, settings=settings))
        for settings in ("a", "b", "c")
    ]
    files = {".onnx": bytes(1000), ".safetensors": bytes(100)}
    monkeypatch.setattr(onnx_engine, "export_onnx", lambda *given: (files, {}))
    paths = [
        exported_graph(graph, "fp32", tmp_path, model="m", build=True) for graph in graphs[:2]
    ]
    for path in paths:
        os.utime(path.with_suffix(".json"), (0, 0))
    exported_graph(graphs[0], "fp32", tmp_path, model="m", build=False)  # used again
    size = sum(
        path.with_suffix(s).stat().st_size
        for path in paths
        for s in (".onnx", ".json", ".safetensors")
    )
    monkeypatch.setattr(onnx_engine, "LIMIT_BYTES", size + 100)
    last = exported_graph(graphs[2], "fp32", tmp_path, model="m", build=True)
    assert [path.exists() for path in (*paths, last)] == [True, False, True]


models = pytest.mark.parametrize("model", ["ostrack_graphs", "grm_graphs", "mast_graphs"])


@models
def test_single_precision_equals_torch(
    model: str, request: pytest.FixtureRequest, open_onnx: Callable[..., OnnxRuntimeEngine]
) -> None:
    for graph in request.getfixturevalue(model):
        report = parity_check.examine(open_onnx(graph, "fp32"), graph, "fp32", CROPS)
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
    report = parity_check.examine(engine, graph, "fp16", CROPS)
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
    shared_engines: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A provider may be there without the libraries that it loads: then a CPU is used."""
    import onnxruntime

    open_onnx(ostrack_graphs[0], "fp32")
    known = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: known)
    device = torch.device("cuda", 0)
    with pytest.raises(EngineUnavailable, match="would run on CPUExecutionProvider: install"):
        open_engine(
            ostrack_graphs[0],
            "fp32",
            shared_engines,
            model="ostrack_tiny",
            build=False,
            device=device,
        )


def test_a_missing_package_or_provider_is_named(
    doubling: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(EngineUnavailable, match="no CUDA provider, only .*onnxruntime-gpu"):
        open_engine(doubling, "fp32", tmp_path, model="m", build=True, device=torch.device("cuda"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not onnx_engine.can_run()
    with pytest.raises(EngineUnavailable, match="not installed: pip install onnxruntime"):
        open_engine(doubling, "fp32", tmp_path, model="m", build=True, device=CPU)


@pytest.mark.parametrize("build", [True, False])
def test_a_graph_of_other_weights_is_not_trusted_though_its_manifest_matches(
    doubling: Graph, tmp_path: Path, build: bool
) -> None:
    path = exported_graph(doubling, "fp32", tmp_path, model="m", build=True)
    good = path.read_bytes()
    model = onnx.load(path)
    for weight in model.graph.initializer:
        wrong = 3 * onnx.numpy_helper.to_array(weight)
        weight.CopyFrom(onnx.numpy_helper.from_array(wrong, weight.name))
    path.write_bytes(model.SerializeToString())
    manifest = json.loads(path.with_suffix(".json").read_text())
    manifest["sha256"][".onnx"] = sha256_of(path)
    manifest["bytes"][".onnx"] = path.stat().st_size
    path.with_suffix(".json").write_text(json.dumps(manifest))
    assert graph_cache(tmp_path).verify(path.stem) == "", "nothing else betrays it"
    if not build:
        with pytest.raises(EngineUnavailable, match="does not equal torch"):
            open_engine(doubling, "fp32", tmp_path, model="m", build=False, device=CPU)
        return
    engine = open_engine(doubling, "fp32", tmp_path, model="m", build=True, device=CPU)
    found = engine(**doubling.example(0))["sums"]
    assert torch.equal(found, torch.tensor([1.0, 4.0, 7.0]))
    assert path.read_bytes() == good, "it was exported again"


@pytest.mark.parametrize("what", ["folder open to others", "file open to others", "link"])
def test_exported_graphs_are_trusted_by_the_rule_of_plans(
    doubling: Graph, tmp_path: Path, what: str
) -> None:
    path = exported_graph(doubling, "fp32", tmp_path / "engines", model="m", build=True)
    if what == "folder open to others":
        path.parent.chmod(0o777)
    elif what == "file open to others":
        path.chmod(0o666)
    else:
        path.rename(tmp_path / "elsewhere.onnx")
        path.symlink_to(tmp_path / "elsewhere.onnx")
    with pytest.raises((EngineUnavailable, PermissionError), match=r"others|nobody else|link"):
        open_engine(doubling, "fp32", tmp_path / "engines", model="m", build=False, device=CPU)
