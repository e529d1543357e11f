# SPDX-License-Identifier: Apache-2.0
"""Writes graphs as ONNX: opset 18, static shapes, known operators only, typed in torch.

Beside each `NAME.onnx` stand `NAME.json`, its manifest, and `NAME.safetensors`, one example of
inputs and the outputs that torch computes from them. The manifest is written last: a file without
one is what an interrupted export left. Needs the packages onnx and onnxscript.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import os
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

import tracker_ros
from tracker_ros.checkpoints import sha256_of, write_weights
from tracker_ros.engines.cache import LIMIT_BYTES, mark_used, prune_exported
from tracker_ros.engines.graph import EngineUnavailable, Graph
from tracker_ros.engines.half_precision import HalfPrecision, HalfProducts

OPSET = 18
PRECISIONS = ("fp32", "fp16")
MIXED = "fp16-mixed"
"""Half precision in products only, for graphs that need float32 between them."""
INSTALL = "pip install onnx onnxscript"
# fmt: off
ALLOWED_OPERATORS = frozenset({
    "Abs", "Add", "And", "Cast", "Clip", "Concat", "Constant", "ConstantOfShape", "Conv", "Div",
    "Einsum", "Equal", "Erf", "Exp", "Expand", "Flatten", "Floor", "Gather", "GatherElements",
    "GatherND", "Gemm", "Greater", "GreaterOrEqual", "Identity", "LayerNormalization",
    "LeakyRelu", "Less", "LessOrEqual", "Log", "LogSoftmax", "MatMul", "Max", "MaxPool", "Min",
    "Mod", "Mul", "Neg", "Not", "Or", "Pad", "Pow", "Range", "Reciprocal", "ReduceMax",
    "ReduceMean", "ReduceMin", "ReduceSum", "Relu", "Reshape", "ScatterElements", "ScatterND",
    "Shape", "Sigmoid", "Sign", "Slice", "Softmax", "Split", "Sqrt", "Squeeze", "Sub", "Tanh",
    "Tile", "TopK", "Transpose", "Unsqueeze", "Where",
})
# fmt: on
"""Operators that ONNX Runtime and TensorRT from 10.3 on have for static shapes."""


def graph_key(graph: Graph, precision: str) -> str:
    """Hexadecimal digest of all that an exported graph follows from.

    That is its spec and weights, the precision, and the code of models and engines.
    """
    parts = f"{_code_digest()} {OPSET} {precision} {graph.spec!r} {_weights_digest(graph)}"
    return hashlib.sha256(parts.encode()).hexdigest()


@lru_cache(maxsize=1)
def _code_digest() -> str:
    package = Path(tracker_ros.__file__).parent
    digest = hashlib.sha256()
    for folder in ("engines", "models"):
        for path in sorted((package / folder).rglob("*.py")):
            digest.update(path.relative_to(package).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def exported_graph(graph: Graph, precision: str, folder: Path, *, build: bool) -> Path:
    """The ONNX file of a graph, from a folder where it is kept.

    Args:
        graph: What to look for.
        precision: Of the model, "fp32" or "fp16"; see `typed_precision`.
        folder: The model's, where it is or goes; made if need be. What was used longest ago of
            all that is beside it makes room.
        build: Write it where it is missing or damaged.

    Raises:
        EngineUnavailable: It is not there and `build` is false, or it cannot be exported.
    """
    precision = typed_precision(graph, precision)
    key = graph_key(graph, precision)
    path = folder / f"{graph.spec.name}-{precision}-{key[:16]}.onnx"
    if is_intact(path, key):
        mark_used(path)
        return path
    if not build:
        raise EngineUnavailable(
            f"graph {graph.spec.name!r} is not exported in {precision} ({path} is missing or "
            "damaged); run `tracker-ros export` or allow building (build_engine)"
        )
    export_onnx(graph, precision, path)
    prune_exported(folder.parent, LIMIT_BYTES, keep=path)
    return path


def is_intact(path: Path, key: str) -> bool:
    """Whether an ONNX file is there, whole, and made from what `key` stands for."""
    try:
        manifest = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        return manifest["key"] == key and manifest["model"]["sha256"] == sha256_of(path)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def export_onnx(graph: Graph, precision: str, path: Path) -> dict[str, Any]:
    """Write a graph, its manifest and its reference tensors.

    Args:
        graph: Module and spec.
        precision: Of the model, "fp32" or "fp16"; see `typed_precision`.
        path: The file, ending in .onnx; what is there is replaced.

    Returns:
        The manifest.

    Raises:
        EngineUnavailable: The exporter is not installed or fails, or the graph needs an operator
            that is not allowed.
        ValueError: The precision is none of these.
    """
    precision = typed_precision(graph, precision)
    inputs = graph.example(0)
    graph.spec.check(inputs)
    model = _exported(graph, precision, inputs)
    operators = dict(sorted(_operators(model.graph).items()))
    if unknown := sorted(set(operators) - ALLOWED_OPERATORS):
        raise EngineUnavailable(
            f"graph {graph.spec.name!r} needs the operators {', '.join(unknown)}, which are not "
            "among those that every engine has; express them by others"
        )
    with torch.inference_mode():
        outputs = graph.module(*inputs.values())
    found = {name: tuple(t.shape) for name, t in zip(graph.spec.outputs, outputs, strict=True)}
    if found != {name: spec.shape for name, spec in graph.spec.outputs.items()}:
        raise EngineUnavailable(
            f"graph {graph.spec.name!r} returns {found}, not what its spec says"
        )
    reference = {f"input.{name}": tensor for name, tensor in inputs.items()}
    reference |= {
        f"output.{name}": tensor for name, tensor in zip(graph.spec.outputs, outputs, strict=True)
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with _replacing(path) as partial:
        partial.write_bytes(model.SerializeToString())
    reference_path = path.with_suffix(".safetensors")
    manifest = {
        "graph": graph.spec.name,
        "precision": precision,
        "opset": OPSET,
        "key": graph_key(graph, precision),
        "model": {"file": path.name, "sha256": sha256_of(path), "bytes": path.stat().st_size},
        "weights": {"sha256": _weights_digest(graph)},
        "settings": graph.spec.settings,
        "inputs": {name: asdict(spec) for name, spec in graph.spec.inputs.items()},
        "outputs": {name: asdict(spec) for name, spec in graph.spec.outputs.items()},
        "operators": operators,
        "reference": {
            "file": reference_path.name,
            "sha256": write_weights(reference, reference_path),
        },
        "tools": _tool_versions(),
    }
    with _replacing(path.with_suffix(".json")) as partial:
        partial.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return manifest


def typed_precision(graph: Graph, precision: str) -> str:
    """What a graph is computed in when a model is to run in `precision`.

    Raises:
        ValueError: Graphs are not exported in this precision.
    """
    if precision not in (*PRECISIONS, MIXED):
        raise ValueError(
            f"precision {precision!r} is not one of exported graphs; "
            f"expected {' or '.join(PRECISIONS)}"
        )
    return precision if graph.spec.half else "fp32"


def _exported(graph: Graph, precision: str, inputs: Mapping[str, torch.Tensor]) -> Any:
    """The ONNX model, with shapes as its spec says."""
    forms = {"fp32": lambda module: module, "fp16": HalfPrecision, MIXED: HalfProducts}
    module = forms[precision](graph.module)
    try:
        import onnx
        import onnxscript  # noqa: F401 - torch's exporter needs it
    except ImportError as error:
        raise EngineUnavailable(f"exporting needs another package ({error}): {INSTALL}") from error
    try:
        with _quiet(), torch.no_grad():
            program = torch.export.export(module, tuple(inputs.values()), strict=False)
            exported = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=OPSET,
                input_names=list(graph.spec.inputs),
                output_names=list(graph.spec.outputs),
                verbose=False,
            )
        if exported is None:
            raise EngineUnavailable(f"torch returned no program for graph {graph.spec.name!r}")
        model = exported.model_proto
        onnx.checker.check_model(model)
    except (torch.onnx.OnnxExporterError, onnx.checker.ValidationError, RuntimeError) as error:
        raise EngineUnavailable(
            f"graph {graph.spec.name!r} cannot be exported: {error}"
        ) from error
    names = [value.name for value in model.graph.input]
    if names != list(graph.spec.inputs):
        raise EngineUnavailable(
            f"graph {graph.spec.name!r} came out with the inputs {names}; "
            f"expected {list(graph.spec.inputs)} (one that is never read is left out)"
        )
    return model


def _operators(graph: Any) -> Counter[str]:
    """How often each operator is used, in subgraphs too."""
    found: Counter[str] = Counter()
    for node in graph.node:
        found[node.op_type if not node.domain else f"{node.domain}.{node.op_type}"] += 1
        for attribute in node.attribute:
            if attribute.HasField("g"):
                found += _operators(attribute.g)
    return found


def _weights_digest(graph: Graph) -> str:
    digest = hashlib.sha256()
    for name, tensor in graph.module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy())
    return digest.hexdigest()


def _tool_versions() -> dict[str, str]:
    return {"tracker_ros": tracker_ros.__version__} | {
        name: importlib.metadata.version(name) for name in ("torch", "onnx", "onnxscript")
    }


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A file beside `path` that takes its place when it is written."""
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".partial")
    os.close(handle)
    try:
        yield Path(partial)
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's remarks on its passes and on packages it can do without to itself."""
    names = ("torch.onnx._internal.exporter._registration", "onnx_ir", "onnxscript")
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
