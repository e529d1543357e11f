# SPDX-License-Identifier: Apache-2.0
"""Graphs recorded once on a GPU and replayed: one launch per frame instead of hundreds.

A recording reads and writes fixed memory, so inputs are copied into it, and outputs hold until
the next call. Where recording fails, torch launches operator by operator as before.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from tracker_ros.engines.graph import Graph
from tracker_ros.engines.torch_engine import TorchEngine

_LOG = logging.getLogger(__name__)
_RUNS_BEFORE = 3
_RECORDING = threading.Lock()
"""Torch records one graph at a time in a process."""


class CudaGraphEngine(TorchEngine):
    """A module behind a CUDA graph, recorded when it is made; see `TorchEngine`."""

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
        """Back end, device and precision in use, and whether a recording is replayed."""
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
    """Record what a function launches on a GPU.

    Args:
        run: Reads and writes the same memory every time.
        device: The GPU.

    Returns:
        Launches the recording.

    Raises:
        RuntimeError: Something in it cannot be recorded.
    """
    with _RECORDING, torch.cuda.device(device):
        # Libraries choose their kernels first, which cannot be recorded.
        for _ in range(_RUNS_BEFORE):
            run()
        before = torch.cuda.current_stream()
        stream = _recording_stream(before.device_index)
        recording = torch.cuda.CUDAGraph()
        try:
            # Other threads may go on as they like, also with what cannot be recorded.
            with torch.cuda.graph(recording, stream=stream, capture_error_mode="thread_local"):
                run()
        finally:
            # A recording that fails leaves its stream the current one.
            torch.cuda.set_stream(before)
        return recording.replay


@cache
def _recording_stream(device_index: int) -> torch.cuda.Stream:
    """A GPU's one stream to record on: libraries keep memory for each that they are used on."""
    return torch.cuda.Stream(device_index)
