# SPDX-License-Identifier: Apache-2.0
"""Graphs recorded once on a GPU and replayed: one launch per frame instead of hundreds.

A recording reads and writes fixed memory, so inputs are copied into it, and outputs hold until
the next call. Where recording fails, torch launches operator by operator as before.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from tracker_ros.engines.graph import Graph
from tracker_ros.engines.torch_engine import TorchEngine

_LOG = logging.getLogger(__name__)
_RUNS_BEFORE = 3


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
    def runs_on(self) -> dict[str, str]:
        """Back end, device and precision in use, and whether a recording is replayed."""
        replayed = "no" if self._replay is None else "yes"
        return {**super().runs_on, "cuda_graph": replayed}

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
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    # Libraries choose their kernels and workspaces first, which cannot be recorded.
    with torch.cuda.device(device), torch.cuda.stream(stream):
        for _ in range(_RUNS_BEFORE):
            run()
    torch.cuda.current_stream(device).wait_stream(stream)
    recording = torch.cuda.CUDAGraph()
    with torch.cuda.device(device), torch.cuda.graph(recording):
        run()
    return recording.replay
