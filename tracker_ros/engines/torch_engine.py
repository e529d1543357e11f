# SPDX-License-Identifier: Apache-2.0
"""Graphs computed by torch, operator by operator."""

from __future__ import annotations

import copy
from weakref import WeakKeyDictionary, WeakValueDictionary

import torch
from torch import Tensor, nn

from tracker_ros.engines.graph import Engine, EngineUnavailable, Graph
from tracker_ros.engines.half_precision import HalfPrecision, fold_norms
from tracker_ros.engines.onnx_export import typed_precision

_Copies = WeakValueDictionary[tuple[str, str], nn.Module]
_COPIES: WeakKeyDictionary[nn.Module, _Copies] = WeakKeyDictionary()
"""Of each graph's module, by precision and device, for as long as an engine has them."""


class TorchEngine(Engine):
    """The graph's module.

    Args:
        graph: Its module is copied, once for all engines that have it in use.
        precision: "fp32" or "fp16", the latter on GPUs.
        device: Where it runs.

    Raises:
        EngineUnavailable: Half precision on a CPU.
        ValueError: Another precision.
    """

    backend = "torch"

    def __init__(self, graph: Graph, precision: str, device: torch.device) -> None:
        self.spec, self.device = graph.spec, str(device)
        self.precision = typed_precision(graph, precision)
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
    """A copy that computes in a precision on a device."""
    if precision != "fp16":
        return fold_norms(copy.deepcopy(module)).to(device)
    if device.type == "cpu":
        raise EngineUnavailable("torch has no fast half precision on CPUs; use fp32, bf16 or int8")
    # Torch's kernels on a GPU add up in float32 themselves.
    half: nn.Module = HalfPrecision(module, islands=False)
    # As its convolutions want them; else their weights are laid out anew in every call.
    half.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return half.to(device)
