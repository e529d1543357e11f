# SPDX-License-Identifier: Apache-2.0
"""Graphs computed by torch, operator by operator.

An engine that may break down, and the one that takes over.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from weakref import WeakKeyDictionary, WeakValueDictionary

import torch
from torch import Tensor, nn

from tracker_ros.engines.fold_norms import fold_norms
from tracker_ros.engines.graph import Engine, EngineUnavailable, Graph
from tracker_ros.engines.half_precision import HalfPrecision
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


_LOG = logging.getLogger(__name__)


class FallbackEngine(Engine):
    """Runs one engine until it fails, then another for good, from the very call that failed.

    What a tracker remembers lies in the tensors that it passes, so the target is kept.

    Args:
        engine: Runs first.
        instead: Makes the one that takes over, of the same graph; None if there is no other.
        reason: Why `engine` is itself a second choice; empty if it is not.
    """

    def __init__(
        self, engine: Engine, instead: Callable[[], Engine] | None, reason: str = ""
    ) -> None:
        self._instead = instead
        self._take(engine, reason)

    def _take(self, engine: Engine, reason: str) -> None:
        self._engine, self._reason = engine, reason
        self.spec, self.backend = engine.spec, engine.backend
        self.device, self.precision = engine.device, engine.precision

    @property
    def runtime_info(self) -> dict[str, str]:
        """Those of the engine in use, and why it is not the first choice."""
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
            self._take(make(), reason)
            _LOG.error(
                "graph %r is computed by %s %s from now on: %s",
                self.spec.name,
                self.backend,
                self.precision,
                reason,
            )
            return self._engine(**tensors)
