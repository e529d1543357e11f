# SPDX-License-Identifier: Apache-2.0
"""Runs a TensorRT plan: fixed buffers, named tensors, on a GPU replayed as a CUDA graph."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType

import torch
from torch import Tensor

from tracker_ros.engines.cuda_graph_engine import record
from tracker_ros.engines.graph import Engine, EngineUnavailable, GraphSpec
from tracker_ros.engines.tensorrt_build import logger_of

_LOG = logging.getLogger(__name__)
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
    def runs_on(self) -> dict[str, str]:
        """Back end, device and precision in use, and the gate's figures."""
        return {**super().runs_on, "gate": self.gate}

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
