# SPDX-License-Identifier: Apache-2.0
"""Graphs as ONNX: exported from torch, kept in a cache, and opened by ONNX Runtime.

Files are opset 18 with static shapes and known operators only; their types are decided in torch.
Beside each STEM.onnx stand STEM.safetensors, one example of inputs and the outputs that torch
computes from them, and STEM.json, see `tracker_ros.cache`. Exporting needs the packages onnx and
onnxscript, computing needs onnxruntime.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

import tracker_ros
from tracker_ros.cache import Cache, Entry, Key, NotCached
from tracker_ros.engines import parity_check
from tracker_ros.engines.graph import MIXED, Engine, EngineUnavailable, Graph
from tracker_ros.engines.half_precision import HalfPrecision, HalfProducts
from tracker_ros.engines.int8 import round_linear_layers
from tracker_ros.engines.onnx_session import (
    INSTALL_RUNTIME,
    OnnxRuntimeEngine,
    are_installed,
    can_run,
)

_LOG = logging.getLogger(__name__)
_Read = TypeVar("_Read")
OPSET = 18
LIMIT_BYTES = 2 * 1024**3
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
"""Operators for static shapes that ONNX Runtime and TensorRT from 10.3 on have."""


def can_export() -> bool:
    """Tell whether graphs can be exported and run, without importing what that needs."""
    return are_installed("onnxruntime", "onnx", "onnxscript")


def graph_cache(cache_dir: Path) -> Cache:
    """Return the cache of exported graphs below the folder of engines."""
    return Cache(cache_dir / "onnx", LIMIT_BYTES)


def graph_key(graph: Graph, precision: str, model: str) -> Key:
    """Return everything that a model's exported graph depends on, spec and weights included."""
    parts = {
        "precision": precision,
        "opset": str(OPSET),
        "spec": hashlib.sha256(repr(graph.spec).encode()).hexdigest(),
        "weights": _weights_digest(graph),
        "code": _code_digest(),
    }
    return Key(f"{model} {graph.spec.name}", parts)


@lru_cache(maxsize=1)
def _code_digest() -> str:
    """Return a digest of the code of models and engines."""
    package = Path(tracker_ros.__file__).parent
    digest = hashlib.sha256()
    for folder in ("engines", "models"):
        for path in sorted((package / folder).rglob("*.py")):
            digest.update(path.relative_to(package).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def _weights_digest(graph: Graph) -> str:
    digest = hashlib.sha256()
    for name, tensor in graph.module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy())
    return digest.hexdigest()


def exported_graph(
    graph: Graph, precision: str, cache_dir: Path, *, model: str, build: bool
) -> Path:
    """Return the ONNX file of a model's graph; `build` exports it if it is missing or damaged.

    The precision is the model's, the folder that of engines; exported graphs are below it. Raises
    EngineUnavailable if the file is not there and `build` is false, or it cannot be exported;
    OSError if it cannot be written; ValueError if graphs are not exported in this precision.
    """
    return _obtained(
        graph, precision, cache_dir, model, build, lambda cache, entry: cache.paths(entry)[".onnx"]
    )


def load_exported(
    graph: Graph, precision: str, cache_dir: Path, *, model: str, build: bool
) -> bytes:
    """Return the content of the file that `exported_graph` names, checked as it is read."""
    return _obtained(
        graph, precision, cache_dir, model, build, lambda cache, entry: cache.load(entry)[".onnx"]
    )


def _obtained(
    graph: Graph,
    precision: str,
    cache_dir: Path,
    model: str,
    build: bool,
    read: Callable[[Cache, Entry], _Read],
) -> _Read:
    precision = graph.precision(precision)
    cache, key = graph_cache(cache_dir), graph_key(graph, precision, model)
    try:
        return read(cache, cache.find(key))
    except NotCached as reason:
        if not build:
            raise EngineUnavailable(
                f"graph {graph.spec.name!r} is not exported in {precision} ({reason}); run "
                "`tracker-ros export` or allow building (build_engine)"
            ) from reason
    _LOG.info("exporting graph %r of %s, once", graph.spec.name, model)
    entry = cache.obtain(key, lambda: export_onnx(graph, precision))
    try:
        return read(cache, entry)
    except NotCached as reason:
        raise EngineUnavailable(f"graph {graph.spec.name!r} cannot be read: {reason}") from reason


def export_onnx(graph: Graph, precision: str) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Export a graph in the precision of its model.

    Returns the ONNX file and the tensors of one example by suffix, and what is known about them.
    Raises EngineUnavailable if the exporter is not installed or fails, the graph needs an operator
    that is not allowed, or its outputs are not those of its spec; ValueError for other precisions.
    """
    precision = graph.precision(precision)
    with torch.inference_mode():
        inputs, outputs = graph.reference(0)
    graph.spec.check(inputs)
    model = _exported(graph, precision, inputs)
    operators = dict(sorted(_operators(model.graph).items()))
    if unknown := sorted(set(operators) - ALLOWED_OPERATORS):
        raise EngineUnavailable(
            f"graph {graph.spec.name!r} needs the operators {', '.join(unknown)}, which some "
            "engines lack; express them by others"
        )
    found = {name: tuple(tensor.shape) for name, tensor in outputs.items()}
    if found != {name: spec.shape for name, spec in graph.spec.outputs.items()}:
        raise EngineUnavailable(
            f"graph {graph.spec.name!r} returns {found}, which differs from its spec"
        )
    if precision == "int8":
        round_linear_layers(model, graph.float_layers or ())
    info = {
        "settings": graph.spec.settings,
        "inputs": {name: asdict(spec) for name, spec in graph.spec.inputs.items()},
        "outputs": {name: asdict(spec) for name, spec in graph.spec.outputs.items()},
        "operators": operators,
        "tools": {"tracker_ros": tracker_ros.__version__}
        | {name: importlib.metadata.version(name) for name in ("torch", "onnx", "onnxscript")},
    }
    example = parity_check.pack_example(inputs, outputs)
    return {".onnx": model.SerializeToString(), ".safetensors": example}, info


def _exported(graph: Graph, precision: str, inputs: dict[str, Tensor]) -> Any:
    """Return the ONNX model with the inputs of the spec."""
    forms = {"fp16": HalfPrecision, MIXED: HalfProducts}
    module = forms[precision](graph.module) if precision in forms else graph.module
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
            f"graph {graph.spec.name!r} was exported with the inputs {names}; "
            f"expected {list(graph.spec.inputs)} (an input that is never read is left out)"
        )
    return model


def _operators(graph: Any) -> Counter[str]:
    """Count the uses of each operator, in subgraphs too."""
    found: Counter[str] = Counter()
    for node in graph.node:
        found[node.op_type if not node.domain else f"{node.domain}.{node.op_type}"] += 1
        for attribute in node.attribute:
            if attribute.HasField("g"):
                found += _operators(attribute.g)
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's remarks on its passes and on optional packages."""
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


def open_engine(
    graph: Graph, precision: str, cache_dir: Path, *, model: str, build: bool, device: torch.device
) -> Engine:
    """Make ONNX Runtime's engine for a graph, which must equal torch.

    One that is exported now is compared on many boxes; one that was exported before is compared on
    one example, since a file can be wrong although its digest is right. The arguments are those of
    `exported_graph`, and the device, a CPU or a GPU. Raises EngineUnavailable if ONNX Runtime or
    its provider is missing, the graph is not exported, or it does not equal torch; OSError and
    ValueError as `exported_graph` does.
    """
    if not can_run():
        raise EngineUnavailable(f"ONNX Runtime is not installed: {INSTALL_RUNTIME}")
    typed = graph.precision(precision)
    try:
        content = load_exported(graph, precision, cache_dir, model=model, build=False)
        engine = OnnxRuntimeEngine(graph.spec, content, typed, device)
        _check_parity(engine, graph, typed, crops=1)
        return engine
    except _DiffersFromTorch as problem:
        _remove(graph, typed, cache_dir, model)
        if not build:
            raise
        _LOG.warning("%s; it is exported again", problem)
    except EngineUnavailable:
        if not build:
            raise
    content = load_exported(graph, precision, cache_dir, model=model, build=True)
    engine = OnnxRuntimeEngine(graph.spec, content, typed, device)
    try:
        # An example has one box to compare, or else thousands of numbers.
        _check_parity(engine, graph, typed, parity_check.CROPS if graph.boxes else 1)
    except _DiffersFromTorch:
        _remove(graph, typed, cache_dir, model)
        raise
    return engine


class _DiffersFromTorch(EngineUnavailable):
    """An exported graph does not compute what torch does."""


def _check_parity(engine: Engine, graph: Graph, precision: str, crops: int) -> None:
    if problems := parity_check.examine(engine, graph, precision, crops).problems:
        raise _DiffersFromTorch(
            f"ONNX Runtime's {graph.spec.name!r} in {precision} does not equal torch: "
            f"{'; '.join(problems)}; use backend='torch', or export it again"
        )


def _remove(graph: Graph, precision: str, cache_dir: Path, model: str) -> None:
    """Remove an exported graph that nobody should use."""
    cache, stem = graph_cache(cache_dir), graph_key(graph, precision, model).stem
    with suppress(OSError), cache.lock(stem):
        cache.remove(stem)
