# SPDX-License-Identifier: Apache-2.0
"""Graphs computed by torch: operator by operator, or replayed from a CUDA graph on a GPU.

A CUDA graph is recorded once and replayed with one launch per frame instead of hundreds. It reads
and writes fixed memory, so inputs are copied into it. Where recording fails, torch launches the
operators one by one. `FallbackEngine` lets torch take over from an engine that fails.
"""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Callable
from functools import cache
from weakref import WeakKeyDictionary, WeakValueDictionary

import torch
from torch import Tensor, nn

from tracker_ros.engines.graph import Engine, EngineUnavailable, Graph
from tracker_ros.engines.half_precision import HalfPrecision, fold_norms

_LOG = logging.getLogger(__name__)
_Copies = WeakValueDictionary[tuple[str, str], nn.Module]
_COPIES: WeakKeyDictionary[nn.Module, _Copies] = WeakKeyDictionary()
"""Copies of each graph's module by precision and device, for as long as an engine uses them."""
_RUNS_BEFORE = 3
_RECORDING = threading.Lock()
"""Torch records one graph at a time in a process."""


class TorchEngine(Engine):
    """Calls a graph's module, copied once for all engines of equal precision and device.

    Raises EngineUnavailable for half precision on a CPU, ValueError for an unknown precision.
    """

    backend = "torch"

    def __init__(self, graph: Graph, precision: str, device: torch.device) -> None:
        self.spec, self.device = graph.spec, str(device)
        self.precision = graph.precision(precision)
        copies = _COPIES.setdefault(graph.module, WeakValueDictionary())
        module = copies.get((self.precision, self.device))
        if module is None:
            module = _copied(graph.module, self.precision, device)
            copies[self.precision, self.device] = module
        self._module = module

    @torch.inference_mode()
    @torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    def __call__(self, **tensors: Tensor) -> dict[str, Tensor]:
        """Compute the graph; see `Engine`."""
        self.spec.check(tensors)
        given = [tensors[name].to(self.device) for name in self.spec.inputs]
        return dict(zip(self.spec.outputs, self._module(*given), strict=True))


def _copied(module: nn.Module, precision: str, device: torch.device) -> nn.Module:
    """Return a copy that computes in a precision on a device."""
    if precision != "fp16":
        return fold_norms(copy.deepcopy(module)).to(device)
    if device.type == "cpu":
        raise EngineUnavailable("torch has no fast half precision on CPUs; use fp32 or bf16")
    # Torch's kernels on a GPU add up in float32 themselves.
    half: nn.Module = HalfPrecision(module, islands=False)
    # Half-precision convolutions otherwise rearrange their weights in every call.
    half.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return half.to(device)


class CudaGraphEngine(TorchEngine):
    """A module behind a CUDA graph, recorded when the engine is made; see `TorchEngine`."""

    def __init__(self, graph: Graph, precision: str, device: torch.device) -> None:
        super().__init__(graph, precision, device)
        self._inputs = {name: t.clone().to(device) for name, t in graph.example(0).items()}
        self._outputs: dict[str, Tensor] = {}
        self._replay: Callable[[], object] | None = None
        try:
            self._replay = record(self._run, device)
        except RuntimeError as error:
            _LOG.warning(
                "graph %r cannot be recorded on %s (%s); its operators are launched one by one",
                self.spec.name,
                device,
                str(error).splitlines()[0],
            )

    @property
    def runtime_info(self) -> dict[str, str]:
        """Back end, device and precision in use, and whether a CUDA graph is replayed."""
        replayed = "no" if self._replay is None else "yes"
        return {**super().runtime_info, "cuda_graph": replayed}

    def _run(self) -> None:
        self._outputs = super().__call__(**self._inputs)

    @torch.inference_mode()
    def __call__(self, **tensors: Tensor) -> dict[str, Tensor]:
        """Compute the graph; see `Engine`."""
        if self._replay is None:
            return super().__call__(**tensors)
        self.spec.check(tensors)
        for name, place in self._inputs.items():
            place.copy_(tensors[name], non_blocking=True)
        self._replay()
        return dict(self._outputs)


def record(run: Callable[[], None], device: torch.device) -> Callable[[], object]:
    """Record what a function launches on a GPU. Returns what launches the recording.

    The function reads and writes the same memory every time. Raises RuntimeError if something in
    it cannot be recorded.
    """
    with _RECORDING, torch.cuda.device(device):
        # Libraries choose their kernels in the first runs, which cannot be recorded.
        for _ in range(_RUNS_BEFORE):
            run()
        before = torch.cuda.current_stream()
        stream = _recording_stream(before.device_index)
        recording = torch.cuda.CUDAGraph()
        try:
            # Other threads may launch anything meanwhile, even what cannot be recorded.
            with torch.cuda.graph(recording, stream=stream, capture_error_mode="thread_local"):
                run()
        finally:
            # A recording that fails leaves its stream the current one.
            torch.cuda.set_stream(before)
        return recording.replay


@cache
def _recording_stream(device_index: int) -> torch.cuda.Stream:
    """Return a GPU's one stream for recordings: libraries keep memory for each stream they see."""
    return torch.cuda.Stream(device_index)


class FallbackEngine(Engine):
    """Runs one engine until it fails, then another for good, from the very call that failed.

    The target is kept, since a tracker's memory is in the tensors that it passes.

    Args:
        engine: Runs first.
        instead: Makes the engine that takes over, of the same graph; None if there is no other.
        reason: Why `engine` is itself a second choice; empty if it is not.
    """

    def __init__(
        self, engine: Engine, instead: Callable[[], Engine] | None, reason: str = ""
    ) -> None:
        self._instead = instead
        self._use(engine, reason)

    def _use(self, engine: Engine, reason: str) -> None:
        self._engine, self._reason = engine, reason
        self.spec, self.backend = engine.spec, engine.backend
        self.device, self.precision = engine.device, engine.precision

    @property
    def runtime_info(self) -> dict[str, str]:
        """Facts of the engine in use, and why it is not the first choice."""
        facts = self._engine.runtime_info
        return {**facts, "fallback": self._reason} if self._reason else facts

    def __call__(self, **tensors: Tensor) -> dict[str, Tensor]:
        """Compute the graph; see `Engine`."""
        try:
            return self._engine(**tensors)
        except RuntimeError as error:
            if self._instead is None:
                raise
            failed, make = self._engine, self._instead
            reason = f"{failed.backend} {failed.precision} failed: {error}"
            self._instead = None
            self._use(make(), reason)
            _LOG.error(
                "graph %r is computed by %s %s from now on: %s",
                self.spec.name,
                self.backend,
                self.precision,
                reason,
            )
            return self._engine(**tensors)
