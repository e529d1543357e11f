# SPDX-License-Identifier: Apache-2.0
"""Computes a graph by ONNX Runtime, on a CPU or a GPU, without torch."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tracker_ros.arrays import Array, like, to_numpy
from tracker_ros.engines.graph import Engine, EngineUnavailable, GraphSpec
from tracker_ros.process import thread_count

if TYPE_CHECKING:
    import torch

INSTALL_RUNTIME = "pip install onnxruntime (onnxruntime-gpu for its CUDA provider)"


def are_installed(*packages: str) -> bool:
    """Tell whether packages can be imported, without importing them."""
    return all(importlib.util.find_spec(package) for package in packages)


def can_run() -> bool:
    """Tell whether ONNX Runtime can be imported, without importing it."""
    return are_installed("onnxruntime")


def import_onnxruntime() -> Any:
    """Import ONNX Runtime with its telemetry off, unless ORT_DISABLE_TELEMETRY says otherwise.

    From 1.29.0 on its wheels for Linux report to Microsoft as soon as they are imported, and keep
    an identifier of the machine in the user's cache. Raises ImportError.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime


class OnnxRuntimeEngine(Engine):
    """A session on an exported graph; tensors pass through the CPU's memory.

    Args:
        spec: Of the graph.
        model: The ONNX file or its content.
        precision: That the graph computes in.
        device: A CPU or a GPU, as torch names them.
        constants: Values of constants that are not in the file, by name.

    Raises EngineUnavailable if the file cannot be loaded, or this ONNX Runtime lacks the CUDA
    provider or the libraries that it needs.
    """

    backend = "onnxruntime"

    def __init__(
        self,
        spec: GraphSpec,
        model: Path | bytes,
        precision: str,
        device: torch.device | str,
        constants: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        try:
            onnxruntime = import_onnxruntime()
        except ImportError as error:
            raise EngineUnavailable(
                f"ONNX Runtime cannot be imported ({error}): {INSTALL_RUNTIME}"
            ) from error
        self.spec, self.precision, self.device = spec, precision, str(device)
        self._errors = _errors(onnxruntime)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = thread_count()
        # Threads that wait by spinning take the cores from torch, which computes the rest.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3  # errors; what matters is raised
        # The session reads these arrays while it is made.
        given = {
            name: onnxruntime.OrtValue.ortvalue_from_numpy(constant)
            for name, constant in (constants or {}).items()
        }
        if given:
            options.add_external_initializers(list(given), list(given.values()))
        try:
            self._session = onnxruntime.InferenceSession(
                model if isinstance(model, bytes) else str(model),
                options,
                providers=_providers(onnxruntime, self.device),
            )
        except self._errors as error:
            name = f"graph {spec.name!r}" if isinstance(model, bytes) else model.name
            raise EngineUnavailable(
                f"ONNX Runtime cannot load {name}: {error}; delete it, so that it is exported "
                "again"
            ) from error
        first = self._session.get_providers()[0]
        if self.device != "cpu" and first != "CUDAExecutionProvider":
            # ONNX Runtime mentions it in its log only and goes on, on the CPU.
            raise EngineUnavailable(
                f"ONNX Runtime {onnxruntime.__version__} cannot load what its CUDA provider needs "
                f"and would run on {first}: install the CUDA and cuDNN that it was built for"
            )

    def __call__(self, **tensors: Array) -> dict[str, Array]:
        """Compute the graph; see `Engine`. Outputs are of the kind and on the device of inputs."""
        self.spec.check(tensors)
        arrays = {name: to_numpy(tensor) for name, tensor in tensors.items()}
        try:
            results = self._session.run(list(self.spec.outputs), arrays)
        except self._errors as error:
            raise RuntimeError(
                f"ONNX Runtime failed on graph {self.spec.name!r}: {error}; use backend='torch'"
            ) from error
        example = next(iter(tensors.values()))
        return {
            name: like(result, example)
            for name, result in zip(self.spec.outputs, results, strict=True)
        }


def _providers(onnxruntime: Any, device: str) -> list[Any]:
    if device == "cpu":
        return ["CPUExecutionProvider"]
    known = onnxruntime.get_available_providers()
    if "CUDAExecutionProvider" not in known:
        raise EngineUnavailable(
            f"ONNX Runtime {onnxruntime.__version__} has no CUDA provider, only "
            f"{', '.join(known)}: {INSTALL_RUNTIME}"
        )
    # TF32 would give three digits under the name of float32.
    cuda = {"device_id": int(device.partition(":")[2] or 0), "use_tf32": 0}
    return [("CUDAExecutionProvider", cuda), "CPUExecutionProvider"]


def _errors(onnxruntime: Any) -> tuple[type[Exception], ...]:
    """Return what a session raises; these classes share no base but Exception."""
    state = onnxruntime.capi.onnxruntime_pybind11_state
    names = "Fail InvalidArgument InvalidGraph InvalidProtobuf NoSuchFile NotImplemented EPFail"
    return (
        *(getattr(state, name) for name in names.split() if hasattr(state, name)),
        RuntimeError,
    )
