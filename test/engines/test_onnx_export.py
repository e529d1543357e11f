# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path

import onnx
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tracker_ros.checkpoints import sha256_of
from tracker_ros.engines.graph import EngineUnavailable, Graph, TensorSpec
from tracker_ros.engines.onnx_export import (
    ALLOWED_OPERATORS,
    OPSET,
    export_onnx,
    exported_graph,
    graph_key,
)


def test_the_manifest_says_what_was_written(doubling: Graph, tmp_path: Path) -> None:
    path = exported_graph(doubling, "fp32", tmp_path, build=True)
    manifest = json.loads(path.with_suffix(".json").read_text())
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert manifest["graph"] == "double"
    assert manifest["model"] == {
        "file": path.name,
        "sha256": sha256_of(path),
        "bytes": path.stat().st_size,
    }
    assert manifest["inputs"] == {"values": {"shape": [3], "dtype": "float32"}}
    assert manifest["outputs"] == {"sums": {"shape": [3], "dtype": "float32"}}
    assert manifest["operators"] == {"Add": 1, "Mul": 1}
    assert {"torch", "onnx", "onnxscript", "tracker_ros"} <= set(manifest["tools"])
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET)]
    reference = path.with_name(manifest["reference"]["file"])
    assert manifest["reference"]["sha256"] == sha256_of(reference)
    tensors = load_file(reference)
    assert torch.equal(tensors["output.sums"], torch.tensor([1.0, 4.0, 7.0]))
    assert torch.equal(tensors["input.values"], doubling.example(0)["values"])
    assert not list(tmp_path.glob("*.partial"))


def test_a_graph_is_exported_once_and_again_when_damaged(doubling: Graph, tmp_path: Path) -> None:
    path = exported_graph(doubling, "fp32", tmp_path, build=True)
    written = path.stat().st_mtime_ns
    os.utime(path, ns=(written, written - 10**9))
    assert exported_graph(doubling, "fp32", tmp_path, build=False) == path
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(EngineUnavailable, match="'double' is not exported in fp32"):
        exported_graph(doubling, "fp32", tmp_path, build=False)
    assert exported_graph(doubling, "fp32", tmp_path, build=True).read_bytes() == content
    path.with_suffix(".json").unlink()
    with pytest.raises(EngineUnavailable, match="run `tracker-ros export`"):
        exported_graph(doubling, "fp32", tmp_path, build=False)


def test_the_key_follows_weights_settings_and_precision(doubling: Graph) -> None:
    key = graph_key(doubling, "fp32")
    assert key == graph_key(doubling, "fp32")
    other = dataclasses.replace(doubling, spec=dataclasses.replace(doubling.spec, settings="b"))
    assert len({key, graph_key(doubling, "fp16"), graph_key(other, "fp32")}) == 3
    with torch.no_grad():
        doubling.module.weight += 1
    assert graph_key(doubling, "fp32") != key


def test_what_must_stay_single_is_exported_in_single(doubling: Graph, tmp_path: Path) -> None:
    spec = dataclasses.replace(doubling.spec, half=False)
    path = exported_graph(dataclasses.replace(doubling, spec=spec), "fp16", tmp_path, build=True)
    assert json.loads(path.with_suffix(".json").read_text())["precision"] == "fp32"


def test_half_precision_has_no_numbers_of_another_type(
    ostrack_graphs: list[Graph], onnx_folder: Path
) -> None:
    """Types are fixed in torch: weights in half, layer norms and softmaxes in single."""
    track = ostrack_graphs[1]
    model = onnx.load(exported_graph(track, "fp16", onnx_folder, build=True))
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
        export_onnx(dataclasses.replace(doubling, module=Sorting()), "fp32", tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


class Branching(nn.Module):
    def forward(self, values: Tensor) -> tuple[Tensor]:
        return (values if bool(values.sum() > 0) else -values,)


def test_what_torch_cannot_export_is_named(doubling: Graph, tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable, match="graph 'double' cannot be exported"):
        export_onnx(dataclasses.replace(doubling, module=Branching()), "fp32", tmp_path / "a.onnx")


def test_outputs_are_held_to_the_spec(doubling: Graph, tmp_path: Path) -> None:
    spec = dataclasses.replace(doubling.spec, outputs={"sums": TensorSpec((4,))})
    with pytest.raises(EngineUnavailable, match=r"'double' returns \{'sums': \(3,\)\}"):
        export_onnx(dataclasses.replace(doubling, spec=spec), "fp32", tmp_path / "a.onnx")


def test_a_missing_exporter_is_named(
    doubling: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(EngineUnavailable, match="pip install onnx onnxscript"):
        export_onnx(doubling, "fp32", tmp_path / "a.onnx")


def test_an_unknown_precision_is_refused(doubling: Graph, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="precision 'int8' .*expected fp32 or fp16"):
        exported_graph(doubling, "int8", tmp_path, build=True)


def test_an_export_makes_room_by_what_was_used_longest_ago(
    doubling: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs = [
        dataclasses.replace(doubling, spec=dataclasses.replace(doubling.spec, settings=settings))
        for settings in ("a", "b", "c")
    ]
    paths = [
        exported_graph(graph, "fp32", tmp_path / "onnx" / "m", build=True) for graph in graphs[:2]
    ]
    for path in paths:
        os.utime(path.with_suffix(".json"), (0, 0))
    exported_graph(graphs[0], "fp32", tmp_path / "onnx" / "m", build=False)  # used again
    size = sum(
        path.with_suffix(s).stat().st_size
        for path in paths
        for s in (".onnx", ".json", ".safetensors")
    )
    monkeypatch.setattr("tracker_ros.engines.onnx_export.LIMIT_BYTES", size + 100)
    last = exported_graph(graphs[2], "fp32", tmp_path / "onnx" / "m", build=True)
    assert [path.exists() for path in (*paths, last)] == [True, False, True]
