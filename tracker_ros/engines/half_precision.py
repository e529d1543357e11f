# SPDX-License-Identifier: Apache-2.0
"""Forms of modules for inference: with batch norms folded, and in half precision.

Half precision is typed in torch, as modules are exported and run on GPUs. Layer norms and
softmaxes stay in float32, since sums of squares and exponentials leave the range of half
precision; batch norms are folded into their convolutions before these are rounded.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval
from torch.overrides import TorchFunctionMode


def fold_norms(module: nn.Module) -> nn.Module:
    """Fold every batch norm into the convolution or linear layer before it, in place.

    A norm is folded where it directly follows its layer among the children of a module (in eval
    mode), in the order of registration; an identity takes its place. Returns the same module.
    """
    last_name, last = "", module
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm1d) and isinstance(last, nn.Linear):
            setattr(module, last_name, fuse_linear_bn_eval(last, child))
            setattr(module, name, nn.Identity())
        elif isinstance(child, nn.BatchNorm2d) and isinstance(last, nn.Conv2d):
            setattr(module, last_name, fuse_conv_bn_eval(last, child))
            setattr(module, name, nn.Identity())
        else:
            fold_norms(child)
        last_name, last = name, child
    return module


class HalfPrecision(nn.Module):
    """Computes a copy of a module in float16 and is called in float32.

    `islands` keeps norms and softmaxes in float32 here: torch's kernels on a GPU do so themselves,
    and are faster without.
    """

    def __init__(self, module: nn.Module, *, islands: bool = True) -> None:
        super().__init__()
        self.inner = fold_norms(copy.deepcopy(module)).half()
        self.islands = islands

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Compute the module; floating-point inputs and outputs are float32."""
        halves = [t.half() if t.is_floating_point() else t for t in inputs]
        if self.islands:
            with _SingleIslands():
                outputs = self.inner(*halves)
        else:
            outputs = self.inner(*halves)
        return tuple(t.float() if t.is_floating_point() else t for t in outputs)


class HalfProducts(nn.Module):
    """Computes a copy of a module, matrix products and convolutions alone in float16.

    For graphs whose sums, norms or outputs leave the range of half precision.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.inner = fold_norms(copy.deepcopy(module))

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Compute the module, with its own inputs and outputs."""
        with _HalfProducts():
            return tuple(self.inner(*inputs))


class _SingleIslands(TorchFunctionMode):
    """Runs norms and softmaxes in float32 and rounds their results."""

    _SOFTMAXES = (torch.softmax, torch.log_softmax, Tensor.softmax, Tensor.log_softmax, F.softmax)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not args or not isinstance(args[0], Tensor) or args[0].dtype != torch.float16:
            return func(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            return _attention(*args, **kwargs)
        if func is F.layer_norm or func in self._SOFTMAXES:
            single = [_as_single(value) for value in args]
            return func(*single, **{k: _as_single(v) for k, v in kwargs.items()}).half()
        return func(*args, **kwargs)


class _HalfProducts(TorchFunctionMode):
    """Rounds the factors of products and returns float32."""

    _PRODUCTS = frozenset(
        [F.linear, F.conv2d, torch.conv2d, torch.einsum, torch.bmm, torch.matmul]
        + [Tensor.matmul, Tensor.__matmul__]
    )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return _attention(*map(_as_half, args)).float()
        if func in self._PRODUCTS:
            return func(*map(_as_half, args), **(kwargs or {})).float()
        return func(*args, **(kwargs or {}))


def _as_half(value: Any) -> Any:
    single = isinstance(value, Tensor) and value.dtype == torch.float32
    return value.half() if single else value


def _as_single(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) else value


def _attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Compute the products in half precision, the softmax between them in float32."""
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    return scores.float().softmax(dim=-1).to(value.dtype) @ value
