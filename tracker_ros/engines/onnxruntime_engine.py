# SPDX-License-Identifier: Apache-2.0
"""Graphs computed by ONNX Runtime, on the CPU or through its CUDA provider."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tracker_ros.engines import parity_check as gate
from tracker_ros.engines.cache import remove_exported
from tracker_ros.engines.graph import Engine, EngineUnavailable, Graph, GraphSpec
from tracker_ros.engines.onnx_export import exported_graph, typed_precision

INSTALL = "pip install onnxruntime (onnxruntime-gpu for its CUDA provider)"


def is_installed() -> bool:
    """Whether ONNX Runtime can be imported, without importing it."""
    return _are_found("onnxruntime")


def can_export() -> bool:
    """Whether graphs can be exported for it and run, without importing what that needs."""
    return _are_found("onnxruntime", "onnx", "onnxscript")


def _are_found(*packages: str) -> bool:
    return all(importlib.util.find_spec(package) for package in packages)


def open_engine(
    graph: Graph, precision: str, folder: Path, *, build: bool, device: torch.device
) -> Engine:
    """An engine for a graph.

    Args:
        graph: What to compute.
        precision: "fp32" or "fp16".
        folder: Where exported graphs are kept.
        build: Export the graph if it is not there.
        device: "cpu" or a GPU.

    Raises:
        EngineUnavailable: ONNX Runtime or its provider is missing, or the graph is not exported,
            or it has been now and does not equal torch.
        ValueError: The precision is none of these.
    """
    if not is_installed():
        raise EngineUnavailable(f"ONNX Runtime is not installed: {INSTALL}")
    typed = typed_precision(graph, precision)
    try:
        path = exported_graph(graph, precision, folder, build=False)
    except EngineUnavailable:
        if not build:
            raise
    else:
        return OnnxRuntimeEngine(graph.spec, path, typed, device)
    path = exported_graph(graph, precision, folder, build=True)
    engine = OnnxRuntimeEngine(graph.spec, path, typed, device)
    if problems := gate.examine(engine, graph, typed).problems:
        remove_exported(path)
        raise EngineUnavailable(
            f"ONNX Runtime's {graph.spec.name!r} in {typed} does not equal torch: "
            f"{'; '.join(problems)}; use backend='torch'"
        )
    return engine


class OnnxRuntimeEngine(Engine):
    """A session on an exported graph.

    Args:
        spec: Of the graph.
        path: The ONNX file.
        precision: What it was exported in.
        device: Where it runs. Tensors pass through the CPU's memory.

    Raises:
        EngineUnavailable: The file cannot be loaded, or this ONNX Runtime lacks the CUDA provider
            or the libraries that it needs.
    """

    backend = "onnxruntime"

    def __init__(self, spec: GraphSpec, path: Path, precision: str, device: torch.device) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise EngineUnavailable(
                f"ONNX Runtime cannot be imported ({error}): {INSTALL}"
            ) from error
        self.spec, self.precision, self.device = spec, precision, str(device)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # Threads that wait by spinning take the cores from torch, which computes the rest.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3  # errors; what is worse to know is raised
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=_providers(onnxruntime, device)
            )
        except _errors(onnxruntime) as error:
            raise EngineUnavailable(
                f"ONNX Runtime cannot load {path.name}: {error}; delete it, so that it is "
                "exported anew"
            ) from error
        first = self._session.get_providers()[0]
        if device.type == "cuda" and first != "CUDAExecutionProvider":
            # It says so in its log only and goes on, on the CPU.
            raise EngineUnavailable(
                f"ONNX Runtime {onnxruntime.__version__} cannot load what its CUDA provider needs "
                f"and would run on {first}: install the CUDA and cuDNN that it was built for"
            )

    def __call__(self, **tensors: Tensor) -> dict[str, Tensor]:
        """Compute the graph; see `Engine`."""
        self.spec.check(tensors)
        import onnxruntime

        arrays = {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
        try:
            results = self._session.run(list(self.spec.outputs), arrays)
        except _errors(onnxruntime) as error:
            raise RuntimeError(
                f"ONNX Runtime failed on graph {self.spec.name!r}: {error}; use backend='torch'"
            ) from error
        return {
            name: torch.from_numpy(result).to(self.device)
            for name, result in zip(self.spec.outputs, results, strict=True)
        }


def _providers(onnxruntime: Any, device: torch.device) -> list[Any]:
    if device.type == "cpu":
        return ["CPUExecutionProvider"]
    known = onnxruntime.get_available_providers()
    if "CUDAExecutionProvider" not in known:
        raise EngineUnavailable(
            f"ONNX Runtime {onnxruntime.__version__} has no CUDA provider, only "
            f"{', '.join(known)}: {INSTALL}"
        )
    # TF32 would give three digits under the name of float32.
    cuda = {"device_id": device.index or 0, "use_tf32": 0}
    return [("CUDAExecutionProvider", cuda), "CPUExecutionProvider"]


def _errors(onnxruntime: Any) -> tuple[type[Exception], ...]:
    """What a session raises; they have no base but Exception."""
    state = onnxruntime.capi.onnxruntime_pybind11_state
    names = "Fail InvalidArgument InvalidGraph InvalidProtobuf NoSuchFile NotImplemented EPFail"
    return (
        *(getattr(state, name) for name in names.split() if hasattr(state, name)),
        RuntimeError,
    )
