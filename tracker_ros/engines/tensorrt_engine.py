# SPDX-License-Identifier: Apache-2.0
"""Graphs computed by TensorRT: built from ONNX, kept in the cache, and checked against torch.

One strongly typed way serves TensorRT 10.3 to 11: types are decided in torch and stand in the ONNX
file, so no flag or layer asks for a precision, which TensorRT 11 no longer knows. The package
tensorrt_rtx (TensorRT for RTX) has the same interface and serves where tensorrt is not installed.

A plan that fails its parity check is built again with more of it in float32; if none passes, torch
computes the graph. Each step is logged once. The cache remembers why a plan failed, so that it is
not built again.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from tracker_ros.cache import Cache, Key, NotCached
from tracker_ros.engines import parity_check
from tracker_ros.engines.graph import MIXED, Engine, EngineUnavailable, Graph, GraphSpec
from tracker_ros.engines.onnx_engine import load_exported
from tracker_ros.engines.torch_engine import CudaGraphEngine, FallbackEngine, TorchEngine, record

_LOG = logging.getLogger(__name__)

MODULES = ("tensorrt", "tensorrt_rtx")
OLDEST = {"tensorrt": (10, 3), "tensorrt_rtx": (1, 2)}
INSTALL = (
    "on a Jetson it comes with JetPack (apt-get install python3-libnvinfer), "
    "elsewhere by pip install tensorrt"
)
WORKSPACE_BYTES = 1024**3
OPTIONS = f"workspace {WORKSPACE_BYTES} bytes, no TF32"
ATTEMPTS = {"fp16": ("fp16", MIXED, "fp32"), "fp32": ("fp32",)}
"""Precisions to try one after another, for each precision that may be wanted."""
_DRIVER = Path("/proc/driver/nvidia/version")
_PLAN = ".plan"
_DTYPES = {
    "FLOAT": torch.float32,
    "HALF": torch.float16,
    "BF16": torch.bfloat16,
    "INT64": torch.int64,
    "INT32": torch.int32,
    "BOOL": torch.bool,
}


class PlanRefused(Exception):
    """A plan failed its parity check; the message holds the figures."""


def load_tensorrt() -> ModuleType:
    """Import the first of TensorRT's packages that is installed; raises EngineUnavailable."""
    problems = []
    for name in MODULES:
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                problems.append(f"{name} cannot be imported ({error})")
        except (ImportError, OSError) as error:  # one of its libraries does not load
            problems.append(f"{name} cannot be imported ({error})")
        else:
            found = tuple(int(part) for part in re.findall(r"\d+", module.__version__)[:2])
            oldest = OLDEST.get(module.__name__, (0, 0))
            if found < oldest:
                raise EngineUnavailable(
                    f"{module.__name__} {module.__version__} is too old; expected at least "
                    f"{'.'.join(map(str, oldest))}: {INSTALL}"
                )
            return module
    reason = "; ".join(problems) or "it is not installed"
    raise EngineUnavailable(f"there is no TensorRT: {reason}; {INSTALL}")


def engine_key(
    trt: ModuleType, graph: str, onnx_sha256: str, precision: str, device: torch.device
) -> Key:
    """Return everything that a graph's plan depends on.

    `graph` names model and graph; the digest is that of the ONNX file: weights, operators, shapes,
    types.
    """
    gpu, capability = "none", "none"
    if device.type == "cuda":
        gpu = torch.cuda.get_device_name(device)
        capability = ".".join(map(str, torch.cuda.get_device_capability(device)))
    parts = {
        "onnx": onnx_sha256,
        "precision": precision,
        "options": OPTIONS,
        "tensorrt": f"{trt.__name__} {trt.__version__}",
        "driver": driver_version(),
        "cuda": torch.version.cuda or "none",
        "gpu": gpu,
        "capability": capability,
    }
    return Key(graph, parts)


def driver_version() -> str:
    """Return the version of NVIDIA's driver, or the CUDA that it supports if that is unknown."""
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
    """Build the plan of an ONNX file, in the types that it has; takes seconds to minutes.

    Raises EngineUnavailable, with TensorRT's own messages, if it refused the graph or failed.
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
    """Return what TensorRT made; it returns None where others raise."""
    if made is None:
        raise EngineUnavailable(f"TensorRT returned {lack} for graph {name!r}: {log.last()}")
    return made


@lru_cache(maxsize=2)
def logger_of(trt: ModuleType) -> Any:
    """Return the process's logger for TensorRT, which keeps the first one that it is given.

    Its `last()` returns the last errors.
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


def open_engine(
    graph: Graph, precision: str, cache_dir: Path, *, model: str, build: bool, device: torch.device
) -> Engine:
    """Make the engine of a graph on a GPU; `build` what is not cached, for seconds to minutes.

    Returns an engine of TensorRT that goes over to torch if it fails, or one of torch if no plan
    passed its parity check. Raises EngineUnavailable if TensorRT or a GPU is missing, the cache
    cannot be used, or the plan is not cached and `build` is false; ValueError for precisions other
    than fp32 and fp16.
    """
    trt = load_tensorrt()
    if device.type != "cuda":
        raise EngineUnavailable(f"TensorRT computes on GPUs only, and this is {device}")
    return TensorRTOpener(trt, cache_dir, model, build, device).open(graph, precision)


class TensorRTOpener:
    """Finds or builds the engines of one model; raises EngineUnavailable without a cache."""

    def __init__(
        self, trt: ModuleType, cache_dir: Path, model: str, build: bool, device: torch.device
    ) -> None:
        self._trt, self._model, self._build, self._device = trt, model, build, device
        try:
            self._cache = Cache(cache_dir)
        except OSError as error:
            raise EngineUnavailable(f"the cache of engines cannot be used: {error}") from error

    def open(self, graph: Graph, precision: str) -> Engine:
        """Return the engine of the first precision that passes, or torch's; see `open_engine`."""
        wanted = graph.precision(precision)
        name = self._name(graph)
        refusals: dict[str, list[str]] = {}
        for attempt in ATTEMPTS[wanted]:
            try:
                engine = self._open(graph, attempt)
            except (PlanRefused, EngineUnavailable) as problem:
                if isinstance(problem, EngineUnavailable) and not self._build:
                    raise
                _LOG.warning("%s: TensorRT in %s is not used: %s", name, attempt, problem)
                refusals.setdefault(str(problem), []).append(attempt)
            else:
                return FallbackEngine(engine, lambda: torch_engine(graph, wanted, self._device))
        reasons = [f"in {', '.join(tried)}, {why}" for why, tried in refusals.items()]
        reason = f"TensorRT was refused: {'; '.join(reasons)}"
        instead = torch_engine(graph, wanted, self._device)
        _LOG.error("%s is computed by torch %s: %s", name, instead.precision, reason)
        return FallbackEngine(instead, None, reason)

    def _name(self, graph: Graph) -> str:
        return f"{self._model} {graph.spec.name}"

    def _open(self, graph: Graph, precision: str) -> TensorRTEngine:
        """Return an engine that has passed its parity check, cached or built."""
        try:
            onnx = load_exported(
                graph, precision, self._cache.folder, model=self._model, build=self._build
            )
            digest = hashlib.sha256(onnx).hexdigest()
            key = engine_key(self._trt, self._name(graph), digest, precision, self._device)
            try:
                return self._cached(graph, key)
            except NotCached as reason:
                if not self._build:
                    raise EngineUnavailable(
                        f"{reason}; build it with `tracker-ros export {self._model} --backend "
                        f"tensorrt --precision {precision.removesuffix('-mixed')}`, or allow "
                        "building (build_engine)"
                    ) from reason
            with self._cache.lock(key.stem):
                try:
                    return self._cached(graph, key)  # another process was building it
                except NotCached as reason:
                    return self._built(graph, key, onnx, str(reason))
        except OSError as error:
            raise EngineUnavailable(f"its files cannot be used: {error}") from error

    def _cached(self, graph: Graph, key: Key) -> TensorRTEngine:
        """Return the engine of a cached plan, after comparing it with torch on one example.

        Raises NotCached if there is no plan that works, PlanRefused if it failed its parity check
        when it was built.
        """
        entry = self._cache.find(key)
        if not entry.sha256:
            raise PlanRefused(f"it has failed the parity check ({_why(entry.info)})")
        contents = self._cache.load(entry)
        precision = key.parts["precision"]
        try:
            engine = TensorRTEngine(
                graph.spec, contents[_PLAN], precision, self._device, self._trt
            )
            report = parity_check.examine(engine, graph, precision, crops=1)
        except RuntimeError as error:
            raise NotCached(f"the cached engine does not run: {error}") from error
        if not report.passed:
            raise NotCached(f"the cached engine fails its trial: {'; '.join(report.problems)}")
        engine.parity = str(entry.info.get("summary", ""))
        return engine

    def _built(self, graph: Graph, key: Key, onnx: bytes, reason: str) -> TensorRTEngine:
        precision, package = key.parts["precision"], key.parts["tensorrt"]
        _LOG.info("%s is built by %s in %s: %s", key.subject, package, precision, reason)
        start = time.monotonic()
        plan = build_plan(self._trt, onnx, graph.spec.name)
        try:
            engine = TensorRTEngine(graph.spec, plan, precision, self._device, self._trt)
            report = parity_check.examine(engine, graph, precision)
        except RuntimeError as error:
            raise EngineUnavailable(f"the engine does not run: {error}") from error
        seconds = time.monotonic() - start
        _LOG.info("%s was built in %.1f s: %s", key.subject, seconds, report.summary())
        figures = {**report.as_dict(), "seconds": round(seconds, 1)}
        files = {_PLAN: plan} if report.passed else {}
        try:
            self._cache.store(key, files, figures)
        except OSError as error:
            _LOG.warning("%s is built again at the next start: %s", key.subject, error)
        if not report.passed:
            raise PlanRefused(f"it failed the parity check ({_why(figures)})")
        engine.parity = report.summary()
        return engine


def torch_engine(graph: Graph, precision: str, device: torch.device) -> Engine:
    """Return torch's engine, which takes over from TensorRT."""
    if device.type == "cuda":
        return CudaGraphEngine(graph, precision, device)
    return TorchEngine(graph, "fp32", device)


def _why(figures: Mapping[str, object]) -> str:
    problems = figures.get("problems")
    return "; ".join(map(str, problems)) if isinstance(problems, list) else "reason unknown"


class TensorRTEngine(Engine):
    """One plan with its buffers, replayed as a CUDA graph on a GPU.

    `parity` tells how the plan compared to torch, in one line. Raises EngineUnavailable if
    TensorRT refuses the plan or it is another graph's, RuntimeError if the plan does not run.
    """

    backend = "tensorrt"
    parity = ""

    def __init__(
        self,
        spec: GraphSpec,
        plan: bytes,
        precision: str,
        device: torch.device,
        trt: ModuleType,
    ) -> None:
        self.spec, self.precision, self.device = spec, precision, str(device)
        self._target = device
        self._log = logger_of(trt)
        # On the default stream TensorRT waits for the GPU at every call.
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        with self._on_stream():
            self._runtime = trt.Runtime(self._log)
            self._plan = self._runtime.deserialize_cuda_engine(plan)
            if self._plan is None:
                raise self._refusal("cannot load the plan")
            self._context = self._plan.create_execution_context()
            if self._context is None:
                raise self._refusal("has no memory for the plan")
            self._buffers = self._allocated()
            self._enqueue()  # fails here rather than in the recording
            self._replay = self._recorded() or self._enqueue

    @property
    def runtime_info(self) -> dict[str, str]:
        """Back end, device and precision in use, and the figures of the parity check."""
        return {**super().runtime_info, "parity": self.parity}

    @torch.inference_mode()
    def __call__(self, **tensors: Tensor) -> dict[str, Tensor]:
        """Compute the graph; see `Engine`."""
        self.spec.check(tensors)
        with self._on_stream():
            for name, tensor in tensors.items():
                self._buffers[name].copy_(tensor, non_blocking=True)
            self._replay()
            return {
                name: self._buffers[name].to(getattr(torch, spec.dtype))
                for name, spec in self.spec.outputs.items()
            }

    @contextmanager
    def _on_stream(self) -> Iterator[None]:
        """Use the engine's stream after the work of the current one, and wait for it at the end.

        If the work fails, RuntimeError is raised here, not when the outputs are read.
        """
        if self._stream is None:
            yield
            return
        self._stream.wait_stream(torch.cuda.current_stream(self._target))
        with torch.cuda.device(self._target), torch.cuda.stream(self._stream):
            yield
            self._stream.synchronize()

    def _refusal(self, what: str) -> EngineUnavailable:
        return EngineUnavailable(
            f"TensorRT {what} of graph {self.spec.name!r}: {self._log.last()}"
        )

    def _allocated(self) -> dict[str, Tensor]:
        """Return a buffer for every input and output, known to the execution context."""
        plan, wanted = self._plan, {**self.spec.inputs, **self.spec.outputs}
        names = [plan.get_tensor_name(index) for index in range(plan.num_io_tensors)]
        shapes = {name: tuple(plan.get_tensor_shape(name)) for name in names}
        if shapes != {name: spec.shape for name, spec in wanted.items()}:
            raise self._refusal(f"loaded another plan, of tensors {shapes}, in place of that")
        buffers = {}
        for name, shape in shapes.items():
            dtype = _DTYPES[plan.get_tensor_dtype(name).name]
            buffers[name] = torch.zeros(shape, dtype=dtype, device=self._target)
            if not self._context.set_tensor_address(name, buffers[name].data_ptr()):
                raise self._refusal(f"refuses the buffer of {name!r}")
        return buffers

    def _enqueue(self) -> None:
        stream = 0 if self._stream is None else torch.cuda.current_stream().cuda_stream
        if not self._context.execute_async_v3(stream):
            raise RuntimeError(
                f"TensorRT failed on graph {self.spec.name!r}: {self._log.last()}; use "
                "backend='torch'"
            )

    def _recorded(self) -> Callable[[], object] | None:
        """Return what replays one execution from a CUDA graph; None where that is impossible."""
        if self._target.type != "cuda":
            return None
        try:
            return record(self._enqueue, self._target)
        except RuntimeError as error:
            _LOG.warning("graph %r runs without a CUDA graph: %s", self.spec.name, error)
            return None
