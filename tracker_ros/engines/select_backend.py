# SPDX-License-Identifier: Apache-2.0
"""Selects the back end that a model runs on, and opens engines for its graphs there.

With "auto" on a GPU: TensorRT, if an engine was built and passed its parity check; else torch in
half precision with a CUDA graph, or in float32 if that fails the check; else torch as it is. On a
CPU: torch, or ONNX Runtime if graphs were exported and it was faster when both were timed first.
"auto" neither exports nor builds; that is left to `tracker-ros export` and to back ends chosen by
name. Embedded models do not come here on a CPU: see `tracker_ros.engines.embedded`.
"""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tracker_ros.arrays import Array
from tracker_ros.cache import Cache, Key, NotCached
from tracker_ros.cuda.build import processor_digest
from tracker_ros.engines.graph import PRECISIONS, Engine, EngineUnavailable, Graph, GraphSpec
from tracker_ros.process import thread_count
from tracker_ros.tracker import Tracker

if TYPE_CHECKING:
    import torch

_LOG = logging.getLogger(__name__)
CPU_PRECISIONS = ("fp32", "bf16", "int8")
TORCH_PRECISIONS = ("fp32", "bf16")
GPU_PRECISIONS = ("fp32", "fp16")
# Minimum speed-up before torch is left: one measurement varies, and torch computes several targets
# in one pass, for which an engine needs further graphs.
_MIN_SPEED_UP = 1.2


class BackendUnavailable(ValueError):
    """No back end that was asked for computes the model here in the precision asked for."""


Timing = Callable[[dict[str, Tracker]], dict[str, float]]
"""Times trackers by name: seconds for a frame."""


@dataclass(frozen=True)
class Backend:
    """One way to compute a model.

    Attributes:
        name: "torch" (the family's own inference class), "cuda_graph" (torch, replayed from a
            recording on a GPU), "onnxruntime" or "tensorrt".
        device: Where the model runs.
        precision: "fp32", "fp16", "bf16" or "int8".
        model: Name of the model.
        cache_dir: Where exported graphs and built engines are kept.
        build: Export and build what is missing there.
    """

    name: str
    device: torch.device
    precision: str
    model: str
    cache_dir: Path
    build: bool = False

    def check_precision(
        self, in_torch: Sequence[str], on_engines: Sequence[str] = GPU_PRECISIONS
    ) -> None:
        """Refuse a precision that a family does not have: EngineUnavailable.

        Args:
            in_torch: Those of the family's own inference class.
            on_engines: Those of its graphs.
        """
        known = in_torch if self.name == "torch" else on_engines
        if self.precision not in known:
            raise EngineUnavailable(
                f"it is computed in {' or '.join(known)} by {self.name} on this device"
            )

    def open(self, graph: Graph) -> Engine:
        """Make the engine of a graph.

        Raises EngineUnavailable if it cannot be made here, ValueError for an unknown precision.
        """
        if self.name == "cuda_graph":
            return self._cuda_graph(graph)
        open_engine: Callable[..., Engine]
        if self.name == "onnxruntime":
            from tracker_ros.engines.onnx_engine import open_engine
        elif self.name == "tensorrt":
            from tracker_ros.engines.tensorrt_engine import open_engine
        else:
            raise EngineUnavailable(f"back end {self.name!r} computes no graphs")
        try:
            if self.build:
                # Built engines are refused in a folder that others may enter.
                self.cache_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            return open_engine(
                graph,
                self.precision,
                self.cache_dir,
                model=self.model,
                build=self.build,
                device=self.device,
            )
        except OSError as error:
            raise EngineUnavailable(
                f"exported graphs cannot be kept in {self.cache_dir} ({error}); make it "
                "writable, or give another engine_cache_dir"
            ) from error

    def _cuda_graph(self, graph: Graph) -> Engine:
        """Record a graph; half precision must pass the parity check beside torch on this device.

        That takes a moment where a CPU would take seconds, and a tracker may be waiting.
        """
        from tracker_ros.engines import parity_check, torch_engine

        engine = torch_engine.CudaGraphEngine(graph, self.precision, self.device)
        if self.precision != "fp16" or not graph.spec.half:
            return engine
        reference = torch_engine.TorchEngine(graph, "fp32", self.device)
        # An example has one box to compare, or else thousands of numbers.
        crops = parity_check.CROPS if graph.boxes else 1
        report = parity_check.examine(engine, graph, engine.precision, crops, reference)
        if report.problems:
            raise EngineUnavailable(
                f"graph {graph.spec.name!r} in {engine.precision} does not equal torch: "
                f"{'; '.join(report.problems)}; use precision='fp32'"
            )
        return engine


def collect_graphs(make: Callable[[Backend], object]) -> list[Graph]:
    """Return the graphs that a model opens when it is made."""
    import torch

    collector = _Collector("", torch.device("cpu"), "fp32", "", Path())
    make(collector)
    return collector.graphs


@dataclass(frozen=True)
class _Collector(Backend):
    """Keeps graphs and opens nothing."""

    graphs: list[Graph] = field(default_factory=list)

    def open(self, graph: Graph) -> Engine:
        self.graphs.append(graph)
        return _Closed(graph.spec)


class _Closed(Engine):
    backend, device, precision = "none", "cpu", "fp32"

    def __init__(self, spec: GraphSpec) -> None:
        self.spec = spec

    def __call__(self, **tensors: Array) -> dict[str, Array]:
        raise RuntimeError(f"graph {self.spec.name!r} was not opened")


def open_tracker(
    make: Callable[[Backend], Tracker], wanted: Backend, seconds_per_frame: Timing
) -> Tracker:
    """Make a tracker on the back end that was asked for, or on the best that is available.

    `make` raises EngineUnavailable where a back end is not available. Name and precision of the
    wanted one may be "auto"; `seconds_per_frame` times trackers for that. Raises ValueError for an
    unknown precision, and BackendUnavailable, which says what could help, if there is none here.
    """
    _check_precision(wanted)
    try:
        if wanted.name != "auto":
            return make(_with_precision(wanted))
        if wanted.device.type == "cpu":
            return _faster_on_cpu(make, wanted, seconds_per_frame)
        return _first_on_gpu(make, replace(wanted, build=False))
    except EngineUnavailable as error:
        raise BackendUnavailable(
            f"backend {wanted.name!r} with precision {wanted.precision!r} is not available for "
            f"{wanted.model} on {wanted.device}: {error}"
        ) from error


def _check_precision(wanted: Backend) -> None:
    on_cpu = {"torch": TORCH_PRECISIONS, "onnxruntime": PRECISIONS}
    known: tuple[str, ...] = GPU_PRECISIONS
    if wanted.device.type == "cpu":
        known = on_cpu.get(wanted.name, CPU_PRECISIONS)
    if wanted.precision not in ("auto", *known):
        raise ValueError(
            f"precision {wanted.precision!r} is not available for {wanted.model} with backend "
            f"{wanted.name!r} on {wanted.device}; expected auto, {' or '.join(known)}"
        )


def _with_precision(wanted: Backend) -> Backend:
    """Fill in the precision of a back end that was asked for by name."""
    if wanted.name == "torch" and wanted.precision == "fp16":
        return replace(wanted, name="cuda_graph")
    default = "fp16" if wanted.name == "tensorrt" else "fp32"
    return replace(wanted, precision=default if wanted.precision == "auto" else wanted.precision)


def _first_on_gpu(make: Callable[[Backend], Tracker], wanted: Backend) -> Tracker:
    precision = "fp16" if wanted.precision == "auto" else wanted.precision
    choices = [("tensorrt", precision), ("cuda_graph", precision)]
    if wanted.precision == "auto":
        choices.append(("cuda_graph", "fp32"))
    for name, precision in choices:
        try:
            return make(replace(wanted, name=name, precision=precision))
        except EngineUnavailable as error:
            _LOG.info("%s does not run on %s in %s: %s", wanted.model, name, precision, error)
    if wanted.precision == "fp16":
        raise EngineUnavailable("neither TensorRT nor a CUDA graph computes it in fp16")
    return make(replace(wanted, name="torch", precision="fp32"))


def _faster_on_cpu(
    make: Callable[[Backend], Tracker], wanted: Backend, seconds_per_frame: Timing
) -> Tracker:
    precision = "fp32" if wanted.precision == "auto" else wanted.precision
    trackers: dict[str, Tracker] = {}
    problems = []
    for name in ("torch", "onnxruntime") if precision in PRECISIONS else ("torch",):
        try:
            # Nothing is exported here: that would take minutes of a starting node.
            trackers[name] = make(replace(wanted, name=name, precision=precision, build=False))
        except EngineUnavailable as error:
            problems.append(str(error))
    if not trackers:
        raise EngineUnavailable("; ".join(problems))
    if len(trackers) == 1:
        _LOG.info("%s runs on %s: %s", wanted.model, *trackers, "; ".join(problems))
        return next(iter(trackers.values()))
    return trackers[_faster(wanted, precision, lambda: seconds_per_frame(trackers))]


def _faster(wanted: Backend, precision: str, measure: Callable[[], dict[str, float]]) -> str:
    """Return the back end that was faster when both were timed first on this machine.

    Times vary, and a choice that changes from start to start would change results.
    """
    cache = Cache(wanted.cache_dir / "choices")
    versions = {name: importlib.metadata.version(name) for name in ("torch", "onnxruntime")}
    parts = {"threads": str(thread_count()), "processor": processor_digest(), **versions}
    parts["precision"] = precision

    def timed() -> tuple[dict[str, bytes], dict[str, float]]:
        seconds = measure()
        faster = seconds["torch"] > _MIN_SPEED_UP * seconds["onnxruntime"]
        return {".txt": b"onnxruntime" if faster else b"torch"}, seconds

    try:
        entry = cache.obtain(Key(f"{wanted.model} choice", parts), timed)
        chosen, seconds = cache.load(entry)[".txt"].decode(), entry.info
    except (OSError, NotCached) as error:
        _LOG.info("the choice for %s is not kept: %s", wanted.model, error)
        files, seconds = timed()
        chosen = files[".txt"].decode()
    _LOG.info(
        "%s runs on %s: a frame took %.1f ms in torch and %.1f ms in ONNX Runtime",
        wanted.model,
        chosen,
        1e3 * seconds["torch"],
        1e3 * seconds["onnxruntime"],
    )
    return chosen
