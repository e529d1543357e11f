# SPDX-License-Identifier: Apache-2.0
"""Builds TensorRT plans from ONNX: one strongly typed way for TensorRT 10.3 to 11.

Types are decided in torch and stand in the ONNX file, so no flag or layer asks for a precision,
which TensorRT 11 no longer knows. The package tensorrt_rtx (TensorRT for RTX) has the same
interface and serves where tensorrt is not installed.
"""

from __future__ import annotations

import importlib
import logging
import re
from collections import deque
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from tracker_ros.engines.cache import EngineKey
from tracker_ros.engines.graph import EngineUnavailable

_LOG = logging.getLogger(__name__)

MODULES = ("tensorrt", "tensorrt_rtx")
OLDEST = {"tensorrt": (10, 3), "tensorrt_rtx": (1, 2)}
INSTALL = (
    "on a Jetson it comes with JetPack (apt-get install python3-libnvinfer), "
    "elsewhere by pip install tensorrt"
)
WORKSPACE_BYTES = 1024**3
OPTIONS = f"workspace {WORKSPACE_BYTES} bytes, no TF32"
_DRIVER = Path("/proc/driver/nvidia/version")


def load_tensorrt() -> ModuleType:
    """The first of the packages that is installed.

    Raises:
        EngineUnavailable: There is none, or it is too old or cannot be loaded.
    """
    problems = []
    for name in MODULES:
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                problems.append(f"{name} cannot be imported ({error})")
        except (ImportError, OSError) as error:  # a library of it that does not load
            problems.append(f"{name} cannot be imported ({error})")
        else:
            _check_version(module)
            return module
    reason = "; ".join(problems) or "it is not installed"
    raise EngineUnavailable(f"there is no TensorRT: {reason}; {INSTALL}")


def _check_version(module: ModuleType) -> None:
    found = tuple(int(part) for part in re.findall(r"\d+", module.__version__)[:2])
    oldest = OLDEST.get(module.__name__, (0, 0))
    if found < oldest:
        raise EngineUnavailable(
            f"{module.__name__} {module.__version__} is too old; expected at least "
            f"{'.'.join(map(str, oldest))}: {INSTALL}"
        )


def engine_key(
    trt: ModuleType, graph: str, onnx_sha256: str, precision: str, device: torch.device
) -> EngineKey:
    """The key of a graph's plan on this machine.

    Args:
        trt: The package.
        graph: Model and graph.
        onnx_sha256: Of the file.
        precision: Of the graph.
        device: The GPU.
    """
    gpu, capability = "none", "none"
    if device.type == "cuda":
        gpu = torch.cuda.get_device_name(device)
        capability = ".".join(map(str, torch.cuda.get_device_capability(device)))
    return EngineKey(
        graph=graph,
        onnx=onnx_sha256,
        precision=precision,
        options=OPTIONS,
        tensorrt=f"{trt.__name__} {trt.__version__}",
        driver=driver_version(),
        cuda=torch.version.cuda or "none",
        gpu=gpu,
        capability=capability,
    )


def driver_version() -> str:
    """Version of NVIDIA's driver; where the kernel does not tell, what CUDA it supports."""
    try:
        match = re.search(r"\s(\d+\.[\d.]+)\s", _DRIVER.read_text())
    except OSError:
        match = None
    if match:
        return match.group(1)
    if torch.cuda.is_available():
        return f"for CUDA {torch._C._cuda_getDriverVersion()}"  # type: ignore[attr-defined]
    return "none"


def build_plan(trt: ModuleType, onnx: bytes, name: str) -> bytes:
    """Parse an ONNX file and build its plan; takes seconds to minutes.

    Args:
        trt: The package.
        onnx: The file's content, typed as it is to be computed.
        name: Of the graph, for messages.

    Raises:
        EngineUnavailable: TensorRT refused the graph, or failed; with its own messages.
    """
    log = logger_of(trt)
    builder = _checked(trt.Builder(log), "no builder", name, log)
    # From TensorRT 11 on every network is strongly typed and the flag may be gone.
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    flags = 0 if flag is None else 1 << int(flag)
    network = _checked(builder.create_network(flags), "no network", name, log)
    parser = trt.OnnxParser(network, log)
    if not parser.parse(onnx):
        reasons = [str(parser.get_error(index)) for index in range(parser.num_errors)]
        raise EngineUnavailable(
            f"TensorRT {trt.__version__} cannot parse graph {name!r}: "
            f"{'; '.join(reasons) or log.last()}"
        )
    config = _checked(builder.create_builder_config(), "no configuration", name, log)
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    # TF32 would give three digits under the name of float32.
    config.clear_flag(trt.BuilderFlag.TF32)
    plan = builder.build_serialized_network(network, config)
    return bytes(_checked(plan, "no plan", name, log))


def _checked(made: Any, lack: str, name: str, log: Any) -> Any:
    """What TensorRT made; it returns None where others raise."""
    if made is None:
        raise EngineUnavailable(f"TensorRT returned {lack} for graph {name!r}: {log.last()}")
    return made


@lru_cache(maxsize=2)
def logger_of(trt: ModuleType) -> Any:
    """The process's logger for TensorRT, which keeps the first that it is given.

    Its `last()` is what went wrong last.
    """

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: deque[str] = deque(maxlen=3)

        def log(self, severity: Any, message: str) -> None:
            if severity.name in ("INTERNAL_ERROR", "ERROR"):
                self.errors.append(message)
            level = logging.WARNING if severity.name == "WARNING" else logging.DEBUG
            _LOG.log(level, "TensorRT: %s", message)

        def last(self) -> str:
            messages = "; ".join(self.errors) or "it gave no reason"
            self.errors.clear()
            return messages

    return Logger()
