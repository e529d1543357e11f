# SPDX-License-Identifier: Apache-2.0
"""Replaces the layers of a trained network by ones with fixed weights, in float32 or bfloat16.

On a CPU torch multiplies float32 matrices through its BLAS and gives oneDNN only the convolutions.
With weights reordered once into oneDNN's blocked layout, the same products have the same precision
and take less time on processors that the BLAS does not favour (`docs/engines.md`). The operators
are those that `torch.compile` emits for CPUs, and no public part of torch: `PRIVATE_OPERATORS`
lists them with the version they were tested with. Where a build of torch lacks one, and on GPUs,
plain operators are used.

In bfloat16, products and layer outputs are bfloat16; sums and the residual stream of a transformer
are float32, and so are norms. Written for this package; the official codes have no counterpart.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tracker_ros.engines.half_precision import fold_norms
from tracker_ros.models.layers.vit import Attention

PRIVATE_OPERATORS = (
    "_linear_pointwise",
    "_convolution_pointwise",
    "_reorder_linear_weight",
    "_reorder_convolution_weight",
)
"""Operators of `torch.ops.mkldnn`; tested with torch 2.13."""

in_float32 = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
"""Decorator for functions with convolutions. By default GPUs compute those in TF32, with three
digits: in a tracker that learns online, boxes would end up pixels away."""


def can_pack(device: torch.device) -> bool:
    """Return whether this build of torch has oneDNN's prepacked layers for `device`."""
    return (
        device.type == "cpu"
        and torch.backends.mkldnn.is_available()
        and all(hasattr(torch.ops.mkldnn, name) for name in PRIVATE_OPERATORS)
    )


def _cpu_has(name: str) -> bool:
    """Return whether torch knows a CPU feature by that name and this CPU has it."""
    return bool(getattr(torch.cpu, name, lambda: False)())


def can_bfloat16(device: torch.device) -> bool:
    """Return whether bfloat16 products are faster than float32 ones on `device`."""
    return can_pack(device) and (
        _cpu_has("_is_avx512_bf16_supported") or _cpu_has("_is_amx_tile_supported")
    )


def precisions(device: torch.device) -> tuple[str, ...]:
    """Return the precisions that torch computes in on `device`, most exact first."""
    return ("fp32", "bf16") if can_bfloat16(device) else ("fp32",)


class InferenceLinear(nn.Module):
    """Computes `x W^T + b` with fixed weights.

    Args:
        weight: (outputs, inputs) float32.
        bias: (outputs,) float32, or None.
        packed: Lay the weight out for oneDNN.
        dtype: Type of the products and of the output; None for the weight's. Sums are float32.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        *,
        packed: bool,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.packed = packed
        self.dtype = weight.dtype if dtype is None else dtype
        self.weight = weight.detach().to(self.dtype).contiguous()
        self.bias = None if bias is None else bias.detach().to(self.dtype).contiguous()
        if packed:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(self.weight, None)

    def forward(self, tokens: Tensor) -> Tensor:
        """(..., inputs) of any floating type -> (..., outputs)."""
        tokens = tokens.to(self.dtype)
        if self.packed:
            return torch.ops.mkldnn._linear_pointwise(
                tokens, self.weight, self.bias, "none", [], "none"
            )
        return F.linear(tokens, self.weight, self.bias)


class InferenceAttention(Attention):
    """An `Attention` with fixed weights, whose queries have a matrix of their own."""

    def __init__(self, attention: Attention, *, packed: bool, dtype: torch.dtype | None) -> None:
        nn.Module.__init__(self)
        self.num_heads, self.head_dim = attention.num_heads, attention.head_dim
        proj, qkv = attention.proj, attention.qkv
        width = proj.in_features

        def fixed(weight: Tensor, bias: Tensor) -> nn.Module:
            return InferenceLinear(weight, bias, packed=packed, dtype=dtype)

        self.query = fixed(qkv.weight[:width], qkv.bias[:width])
        self.key_value = fixed(qkv.weight[width:], qkv.bias[width:])
        self.proj = fixed(proj.weight, proj.bias)  # type: ignore[assignment]

    def forward(self, tokens: Tensor) -> Tensor:
        """See `Attention.forward`."""
        key, value = self.keys_values(tokens)
        return self.attend(self.queries(tokens), key, value)

    def keys_values(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """See `Attention.keys_values`."""
        both = self.key_value(tokens).unflatten(2, (2, self.num_heads, self.head_dim))
        key, value = both.permute(2, 0, 3, 1, 4).unbind(0)
        return key, value

    def queries(self, tokens: Tensor) -> Tensor:
        """See `Attention.queries`."""
        return self.query(tokens).unflatten(2, (self.num_heads, self.head_dim)).transpose(1, 2)


class InferenceConv(nn.Module):
    """Computes a convolution with fixed weights and an optional fused ReLU.

    A batch norm is already folded in. `packed` lays the weight out for oneDNN; `dtype` is the type
    of the products and of the output, None for the weight's. Sums are at least float32.
    """

    def __init__(
        self,
        conv: nn.Conv2d,
        *,
        packed: bool,
        relu: bool = False,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.packed = packed
        self.relu = relu
        self.geometry = (conv.padding, conv.stride, conv.dilation, conv.groups)
        self.dtype = conv.weight.dtype if dtype is None else dtype
        self.weight = conv.weight.detach().to(self.dtype)
        self.bias = None if conv.bias is None else conv.bias.detach().to(self.dtype)
        self._laid_out_for = 0

    def _lay_out(self, shape: torch.Size) -> None:
        """Reorder the weight for an image shape, unless it already is for a larger one.

        Any layout gives correct results for any shape, but a strided convolution can take up to
        twenty times as long in the layout of another shape.
        """
        pixels = shape[2] * shape[3]
        if pixels <= self._laid_out_for:
            return
        padding, stride, dilation, groups = self.geometry
        plain = self.weight.to_dense() if self.weight.is_mkldnn else self.weight
        self.weight = torch.ops.mkldnn._reorder_convolution_weight(
            plain, list(padding), list(stride), list(dilation), groups, list(shape)
        )
        self._laid_out_for = pixels

    def forward(self, image: Tensor) -> Tensor:
        """Convolve (B, inputs, H, W)."""
        image = image.to(self.dtype)
        if self.packed:
            self._lay_out(image.shape)
        padding, stride, dilation, groups = self.geometry
        if self.packed:
            return torch.ops.mkldnn._convolution_pointwise(
                image, self.weight, self.bias, padding, stride, dilation, groups,
                "relu" if self.relu else "none", [], "",
            )  # fmt: skip
        result = F.conv2d(image, self.weight, self.bias, stride, padding, dilation, groups)
        return F.relu(result) if self.relu else result


def for_inference(
    module: nn.Module,
    *,
    packed: bool,
    dtype: torch.dtype | None = None,
    but: Collection[str] = (),
) -> nn.Module:
    """Fold the batch norms of a module tree and fix its convolutions, in place.

    Args:
        module: In eval mode. In a `Sequential`, a convolution also takes over the ReLU after it.
        packed: Lay weights out for oneDNN.
        dtype: Type that convolutions compute in; None for their weights'.
        but: Names of modules that compute in their weights' type whatever `dtype` says.

    Returns:
        The module, or its replacement if it is a convolution or a `Sequential` itself.
    """
    return _fix_convolutions(fold_norms(module), packed, dtype, but)


def _fix_convolutions(
    module: nn.Module, packed: bool, dtype: torch.dtype | None, but: Collection[str]
) -> nn.Module:
    if isinstance(module, nn.Conv2d):
        return InferenceConv(module, packed=packed, dtype=dtype)
    if not isinstance(module, nn.Sequential):
        for name, child in module.named_children():
            own = None if name in but else dtype
            setattr(module, name, _fix_convolutions(child, packed, own, but))
        return module
    chain: list[nn.Module] = []
    for layer in module:
        if isinstance(layer, nn.ReLU) and chain and isinstance(chain[-1], InferenceConv):
            chain[-1].relu = True
        elif not isinstance(layer, nn.Identity):
            chain.append(_fix_convolutions(layer, packed, dtype, but))
    return nn.Sequential(*chain)


def fix_linear_layers(
    module: nn.Module,
    *,
    packed: bool,
    dtype: torch.dtype | None = None,
    but: Collection[str] = (),
) -> None:
    """Fix the linear layers of a module tree, in place, one by one: it is never in memory twice.

    Arguments are those of `for_inference`; but modules named in `but` stay as they are.
    """
    for name, child in module.named_children():
        if name in but:
            continue
        if isinstance(child, nn.Linear):
            fixed: nn.Module = InferenceLinear(
                child.weight, child.bias, packed=packed, dtype=dtype
            )
            setattr(module, name, fixed)
        elif type(child) is Attention:
            setattr(module, name, InferenceAttention(child, packed=packed, dtype=dtype))
        else:
            fix_linear_layers(child, packed=packed, dtype=dtype, but=but)
