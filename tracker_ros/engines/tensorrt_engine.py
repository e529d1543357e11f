# SPDX-License-Identifier: Apache-2.0
"""Graphs computed by TensorRT: from the cache, or built, and only after passing the gate.

A plan that fails the gate is built again with more of it in float32, and in the end torch computes
the graph. Each step is logged once; why a plan failed is kept, so that it is not tried again.

Runs a TensorRT plan: fixed buffers, named tensors, on a GPU replayed as a CUDA graph.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from tracker_ros.engines import parity_check as gate
from tracker_ros.engines.cache import EngineCache, EngineKey, NotCached
from tracker_ros.engines.cuda_graph_engine import record
from tracker_ros.engines.graph import Engine, EngineUnavailable, Graph, GraphSpec
from tracker_ros.engines.onnx_export import MIXED, exported_graph, typed_precision
from tracker_ros.engines.tensorrt_build import build_plan, engine_key, load_tensorrt, logger_of
from tracker_ros.engines.torch_engine import FallbackEngine

_LOG = logging.getLogger(__name__)

LADDERS = {"fp16": ("fp16", MIXED, "fp32"), "fp32": ("fp32",)}
"""What is tried, one after another, for a precision that was asked for."""


class GateRefusal(Exception):
    """A plan is not to be trusted; the message holds the figures."""


def open_engine(
    graph: Graph,
    precision: str,
    cache_dir: Path,
    *,
    model: str,
    build: bool,
    device: torch.device,
) -> Engine:
    """An engine for a graph.

    Args:
        graph: What to compute.
        precision: "fp32" or "fp16".
        cache_dir: Where engines and exported graphs are kept.
        model: Whose graph it is.
        build: Build what is not cached, for seconds to minutes.
        device: A GPU.

    Returns:
        One of TensorRT that goes over to torch if it fails; one of torch where no plan passed.

    Raises:
        EngineUnavailable: TensorRT or a GPU is missing, the cache cannot be used, or the plan is
            not cached and `build` is false.
        ValueError: The precision is none of these.
    """
    trt = load_tensorrt()
    if device.type != "cuda":
        raise EngineUnavailable(f"TensorRT computes on GPUs only, and this is {device}")
    try:
        cache = EngineCache(cache_dir)
    except OSError as error:
        raise EngineUnavailable(f"the cache of engines cannot be used: {error}") from error
    return TensorRTLadder(trt, cache, model, build, device).climb_down(graph, precision)


class TensorRTLadder:
    """Tries one precision after another.

    Args:
        trt: TensorRT's package.
        cache: Of plans.
        model: Whose graphs they are.
        build: Build what is not cached.
        device: Where plans run.
    """

    def __init__(
        self,
        trt: ModuleType,
        cache: EngineCache,
        model: str,
        build: bool,
        device: torch.device,
    ) -> None:
        self._trt, self._cache, self._model = trt, cache, model
        self._build, self._device = build, device

    def climb_down(self, graph: Graph, precision: str) -> Engine:
        """The engine of the first precision that passes, or torch's; see `open_engine`."""
        wanted = typed_precision(graph, precision)
        refusals: dict[str, list[str]] = {}
        for rung in LADDERS[wanted]:
            try:
                engine = self._on_rung(graph, rung)
            except (GateRefusal, EngineUnavailable) as problem:
                if isinstance(problem, EngineUnavailable) and not self._build:
                    raise
                _LOG.warning(
                    "%s: TensorRT in %s is not used: %s", self._name(graph), rung, problem
                )
                refusals.setdefault(str(problem), []).append(rung)
            else:
                return FallbackEngine(engine, lambda: torch_engine(graph, wanted, self._device))
        reasons = [f"in {', '.join(rungs)}, {why}" for why, rungs in refusals.items()]
        reason = f"TensorRT was refused: {'; '.join(reasons)}"
        instead = torch_engine(graph, wanted, self._device)
        _LOG.error("%s is computed by torch %s: %s", self._name(graph), instead.precision, reason)
        return FallbackEngine(instead, None, reason)

    def _name(self, graph: Graph) -> str:
        return f"{self._model} {graph.spec.name}"

    def _on_rung(self, graph: Graph, precision: str) -> TensorRTEngine:
        """An engine that has passed the gate, cached or built."""
        try:
            folder = self._cache.folder / "onnx" / self._model
            onnx = exported_graph(graph, precision, folder, build=self._build).read_bytes()
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
            with self._cache.building(key):
                try:
                    return self._cached(graph, key)  # another process was building it
                except NotCached as reason:
                    return self._built(graph, key, onnx, str(reason))
        except OSError as error:
            raise EngineUnavailable(f"its files cannot be used: {error}") from error

    def _cached(self, graph: Graph, key: EngineKey) -> TensorRTEngine:
        """The engine of a cached plan, tried with the tensors that were recorded for it.

        Raises:
            NotCached: There is no plan that works.
            GateRefusal: The plan had failed the gate.
        """
        entry = self._cache.find(key)
        if not entry.passed:
            raise GateRefusal(f"it has failed the gate ({_why(entry.gate)})")
        plan, trial = self._cache.load(entry)
        try:
            engine = self._engine(graph, plan, key.precision)
            report = _tried(engine, graph, trial)
        except RuntimeError as error:
            raise NotCached(f"the cached engine does not run: {error}") from error
        if not report.passed:
            raise NotCached(f"the cached engine fails its trial: {'; '.join(report.problems)}")
        engine.gate = str(entry.gate.get("summary", ""))
        return engine

    def _built(self, graph: Graph, key: EngineKey, onnx: bytes, reason: str) -> TensorRTEngine:
        _LOG.info("%s is built by %s in %s: %s", key.graph, key.tensorrt, key.precision, reason)
        start = time.monotonic()
        plan = build_plan(self._trt, onnx, graph.spec.name)
        try:
            engine = self._engine(graph, plan, key.precision)
            report = gate.examine(engine, graph, key.precision)
        except RuntimeError as error:
            raise EngineUnavailable(f"the engine does not run: {error}") from error
        seconds = time.monotonic() - start
        _LOG.info("%s was built in %.1f s: %s", key.graph, seconds, report.summary())
        figures = {**report.as_dict(), "seconds": round(seconds, 1)}
        try:
            contents = (plan, _trial_tensors(graph)) if report.passed else None
            self._cache.store(key, figures, contents)
        except OSError as error:
            _LOG.warning("%s is built again at the next start: %s", key.graph, error)
        if not report.passed:
            raise GateRefusal(f"it failed the gate ({_why(figures)})")
        engine.gate = report.summary()
        return engine

    def _engine(self, graph: Graph, plan: bytes, precision: str) -> TensorRTEngine:
        return TensorRTEngine(graph.spec, plan, precision, self._device, self._trt)


def torch_engine(graph: Graph, precision: str, device: torch.device) -> Engine:
    """What takes over from TensorRT."""
    if device.type == "cuda":
        from tracker_ros.engines.cuda_graph_engine import CudaGraphEngine

        return CudaGraphEngine(graph, precision, device)
    from tracker_ros.engines.torch_engine import TorchEngine

    return TorchEngine(graph, "fp32", device)


def _why(figures: Mapping[str, object]) -> str:
    problems = figures.get("problems")
    return "; ".join(map(str, problems)) if isinstance(problems, list) else "reason unknown"


def _trial_tensors(graph: Graph) -> bytes:
    """The first example and what torch makes of it, as a safetensors file."""
    from safetensors.torch import save

    inputs = graph.example(0)
    with torch.inference_mode():
        outputs = graph.module(*inputs.values())
    tensors = {f"input.{name}": tensor for name, tensor in inputs.items()}
    tensors |= {
        f"output.{name}": tensor for name, tensor in zip(graph.spec.outputs, outputs, strict=True)
    }
    return save({name: t.clone().contiguous() for name, t in tensors.items()})


def _tried(engine: Engine, graph: Graph, trial: bytes) -> gate.ParityReport:
    """Run an engine on recorded inputs and compare."""
    from safetensors.torch import load

    recorded = load(trial)

    def named(kind: str) -> dict[str, Tensor]:
        return {n.partition(".")[2]: t for n, t in recorded.items() if n.startswith(kind)}

    found = {name: tensor.cpu() for name, tensor in engine(**named("input.")).items()}
    return gate.compare([(named("output."), found)], graph, engine.precision)


_DTYPES = {
    "FLOAT": torch.float32,
    "HALF": torch.float16,
    "BF16": torch.bfloat16,
    "INT64": torch.int64,
    "INT32": torch.int32,
    "BOOL": torch.bool,
}


class TensorRTEngine(Engine):
    """One plan with its buffers.

    Args:
        spec: Of the graph.
        plan: As built for this machine.
        precision: What it was built in.
        device: The GPU.
        trt: The package that built it.

    Attributes:
        gate: How the plan compared to torch, in one line.

    Raises:
        EngineUnavailable: TensorRT refuses the plan, or it is another graph's.
        RuntimeError: The plan does not run.
    """

    backend = "tensorrt"
    gate = ""

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
        """Back end, device and precision in use, and the gate's figures."""
        return {**super().runtime_info, "gate": self.gate}

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
        """Use the engine's GPU, after what was to be done before, and wait for it at the end.

        Raises:
            RuntimeError: It failed: now, not when somebody reads the outputs.
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
        """A buffer for every input and output, made known to the execution context."""
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
        """Replays one execution from a CUDA graph; None where there can be none."""
        if self._target.type != "cuda":
            return None
        try:
            return record(self._enqueue, self._target)
        except RuntimeError as error:
            _LOG.warning("graph %r runs without a CUDA graph: %s", self.spec.name, error)
            return None
