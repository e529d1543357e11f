# SPDX-License-Identifier: Apache-2.0
"""Linear and convolution layers as inference wants them: norms folded, weights laid out once.

On a CPU torch multiplies float32 matrices through its BLAS, and hands oneDNN only convolutions.
With weights reordered once into oneDNN's own blocked layout the same products run at the same
precision and, on processors the BLAS does not favour, at twice the speed (measured in
`docs/models.md`); an activation is fused into the product. The operators are those that
`torch.compile` emits for CPUs. Where this build of torch lacks them, and on GPUs, the plain ones
are used. Written for this package; the official code has no counterpart.

Transformer layers on a CPU in the precision that was asked for: fp32, bf16 or int8.

In bf16, weights and what the layers exchange are bfloat16, sums are float32, and so is the stream
of tokens that blocks add to. In int8, the weights of linear layers are 8-bit integers with one
scale per output, and what comes in is rounded to 8 bits by its own smallest and largest value in
every frame, so that nothing needs calibrating; the rest is as in bf16, or in float32 where the
processor has no bfloat16. Norms, softmax and sums stay float32 throughout. Written for this
package; the official codes have no counterpart.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from tracker_ros.models.layers.center_head import BRANCHES, CenterHead

in_float32 = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
"""Decorator: on GPUs torch runs convolutions in TF32 unless told otherwise: three digits
under the name of float32; in a tracker that learns, boxes come to lie pixels away."""


def can_pack(device: torch.device) -> bool:
    """Whether oneDNN's prepacked layers exist for `device` in this build of torch."""
    return (
        device.type == "cpu"
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
    )


class InferenceLinear:
    """`x W^T + b` with an optional exact GELU; weights are fixed at construction.

    Args:
        weight: (outputs, inputs) float32.
        bias: (outputs,) float32, or None.
        packed: Lay the weight out for oneDNN.
        gelu: Apply a GELU to the result.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None, *, packed: bool, gelu: bool = False
    ) -> None:
        self.weight = weight.detach().contiguous()
        self.bias = None if bias is None else bias.detach().contiguous()
        self.packed = packed
        self.gelu = gelu
        if packed:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(self.weight, None)

    def __call__(self, tokens: Tensor, bias: Tensor | None = None) -> Tensor:
        """(..., inputs) -> (..., outputs); a `bias` (outputs,) stands in for the fixed one."""
        bias = self.bias if bias is None else bias
        if self.packed:
            activation = "gelu" if self.gelu else "none"
            return torch.ops.mkldnn._linear_pointwise(
                tokens, self.weight, bias, activation, [], "none"
            )
        result = F.linear(tokens, self.weight, bias)
        return F.gelu(result) if self.gelu else result


class InferenceConv(nn.Module):
    """A convolution with fixed weights and an optional fused ReLU.

    Args:
        conv: With bias, batch norm already folded in.
        packed: Lay the weight out for oneDNN.
        relu: Apply a ReLU to the result.
        dtype: What it computes in and returns; None for the weight's. Sums are float32 at least.
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
        """Reorder the weight for images of a shape, unless it already is for larger ones.

        Any layout gives the right numbers for any shape, but in another shape's a convolution with
        strides takes up to twenty times as long.
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

    def forward(self, image: Tensor, plus: Tensor | None = None) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H', W').

        Args:
            image: What the convolution runs over.
            plus: (B, outputs, H', W') to add, before the ReLU.
        """
        image = image.to(self.dtype)
        if self.packed:
            self._lay_out(image.shape)
        padding, stride, dilation, groups = self.geometry
        if self.packed and plus is not None:
            return torch.ops.mkldnn._convolution_pointwise.binary(
                image, plus, self.weight, self.bias, padding, stride, dilation, groups,
                "add", 1.0, "relu" if self.relu else None, [], "",
            )  # fmt: skip
        if self.packed:
            return torch.ops.mkldnn._convolution_pointwise(
                image, self.weight, self.bias, padding, stride, dilation, groups,
                "relu" if self.relu else "none", [], "",
            )  # fmt: skip
        result = F.conv2d(image, self.weight, self.bias, stride, padding, dilation, groups)
        if plus is not None:
            result = result + plus
        return F.relu(result) if self.relu else result


def for_inference(
    module: nn.Module, *, packed: bool, dtype: torch.dtype | None = None
) -> nn.Module:
    """Fold batch norms and fix the convolutions of a module tree, in place.

    Args:
        module: In eval mode. In a `Sequential` a convolution takes up the batch norm and the ReLU
            that directly follow it; elsewhere convolutions are replaced alone.
        packed: Lay weights out for oneDNN.
        dtype: What convolutions compute in; None for their weights'.

    Returns:
        The module, or its replacement if it is a convolution itself.
    """
    if isinstance(module, nn.Conv2d):
        return InferenceConv(module, packed=packed, dtype=dtype)
    if isinstance(module, nn.Sequential):
        return nn.Sequential(*_fold_chain(list(module), packed, dtype))
    for name, child in module.named_children():
        setattr(module, name, for_inference(child, packed=packed, dtype=dtype))
    return module


def _fold_chain(
    layers: list[nn.Module], packed: bool, dtype: torch.dtype | None
) -> list[nn.Module]:
    folded: list[nn.Module] = []
    while layers:
        layer = layers.pop(0)
        if isinstance(layer, nn.Conv2d):
            if layers and isinstance(layers[0], nn.BatchNorm2d):
                layer = fuse_conv_bn_eval(layer, layers[0])
                layers.pop(0)
            relu = bool(layers) and isinstance(layers[0], nn.ReLU)
            if relu:
                layers.pop(0)
            folded.append(InferenceConv(layer, packed=packed, relu=relu, dtype=dtype))
        else:
            folded.append(for_inference(layer, packed=packed, dtype=dtype))
    return folded


Linear = Callable[[Tensor], Tensor]


def _has(name: str) -> bool:
    """Whether this build of torch knows a feature of CPUs by that name, and this one has it."""
    return bool(getattr(torch.cpu, name, lambda: False)())


def can_bfloat16(device: torch.device) -> bool:
    """Whether products of bfloat16 are faster than those of float32 on `device`."""
    return can_pack(device) and (
        _has("_is_avx512_bf16_supported") or _has("_is_amx_tile_supported")
    )


def can_int8(device: torch.device) -> bool:
    """Whether 8-bit products are exact and fast on `device`: a CPU with VNNI."""
    # Without VNNI, pairs of products are added in 16 bits, which they may not fit in.
    return (
        device.type == "cpu"
        and hasattr(torch, "quantize_per_channel")
        and hasattr(torch.ops.quantized, "linear_dynamic")
        and _has("_is_vnni_supported")
    )


def precisions(device: torch.device) -> tuple[str, ...]:
    """What `Layers` can have on `device`, most exact first."""
    reduced = {"bf16": can_bfloat16(device), "int8": can_int8(device)}
    return ("fp32", *(name for name, possible in reduced.items() if possible))


class BFloat16Linear:
    """`x W^T + b` in bfloat16, summed in float32, with an optional exact GELU.

    Args:
        weight: (outputs, inputs) float32.
        bias: (outputs,) float32, or None.
        gelu: Apply a GELU to the result.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, *, gelu: bool = False) -> None:
        rounded = weight.detach().bfloat16().contiguous()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(rounded, None)
        self.bias = None if bias is None else bias.detach().bfloat16()
        self.activation = "gelu" if gelu else "none"

    def __call__(self, tokens: Tensor) -> Tensor:
        """(..., inputs) of any floating type -> (..., outputs) bfloat16."""
        return torch.ops.mkldnn._linear_pointwise(
            tokens.bfloat16(), self.weight, self.bias, self.activation, [], "none"
        )


class Int8Linear:
    """`x W^T + b` with 8-bit factors, with an optional exact GELU.

    Args:
        weight: (outputs, inputs) float32.
        bias: (outputs,) float32, or None.
        gelu: Apply a GELU to the result.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, *, gelu: bool = False) -> None:
        weight = weight.detach().contiguous()
        scale = weight.abs().amax(dim=1).double().clamp(min=1e-12) / 127.0
        middle = torch.zeros(len(weight), dtype=torch.int64)
        with warnings.catch_warnings():
            # torch means to replace its 8-bit tensors; `can_int8` asks whether they are there.
            warnings.filterwarnings("ignore", message=".*quantize_per_channel.*deprecated")
            rounded = torch.quantize_per_channel(weight, scale, middle, 0, torch.qint8)
        kept = None if bias is None else bias.detach()
        self.packed = torch.ops.quantized.linear_prepack(rounded, kept)
        self.gelu = gelu

    def __call__(self, tokens: Tensor) -> Tensor:
        """(..., inputs) of any floating type -> (..., outputs) float32."""
        result = torch.ops.quantized.linear_dynamic(tokens.float(), self.packed)
        return F.gelu(result) if self.gelu else result


def bfloat16_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Weighted values (B, heads, n, head_dim); products in bfloat16, softmax in float32."""
    query = (query * query.shape[-1] ** -0.5).bfloat16()
    scores = query @ key.bfloat16().transpose(-2, -1)
    return scores.float().softmax(dim=-1).bfloat16() @ value.bfloat16()


@dataclass(frozen=True)
class Layers:
    """Makes the layers of one precision.

    Attributes:
        precision: "fp32", "bf16" or "int8".
        packed: Lay float32 weights out for oneDNN.
        bfloat16: Compute attention and convolutions in bfloat16.
    """

    precision: str
    packed: bool
    bfloat16: bool

    @classmethod
    def on(
        cls, device: torch.device, precision: str = "fp32", packed: bool | None = None
    ) -> Layers:
        """The layers for a device.

        Args:
            device: Where they run.
            precision: One of `precisions(device)`.
            packed: Use oneDNN's prepacked layers; None decides by what this build of torch has.

        Raises:
            ValueError: The device does not have the precision.
        """
        if precision not in precisions(device):
            raise ValueError(
                f"precision {precision!r} is not available on {device}; expected "
                f"{' or '.join(precisions(device))} (bf16 needs a CPU with AVX-512-BF16 or AMX, "
                "int8 one with VNNI, and a build of torch with oneDNN)"
            )
        reduced = precision != "fp32" and can_bfloat16(device)
        return cls(precision, can_pack(device) if packed is None else packed, reduced)

    def linear(self, weight: Tensor, bias: Tensor | None, *, gelu: bool = False) -> Linear:
        """A linear layer, with an optional exact GELU."""
        if self.precision == "int8":
            return Int8Linear(weight, bias, gelu=gelu)
        if self.precision == "bf16":
            return BFloat16Linear(weight, bias, gelu=gelu)
        return InferenceLinear(weight, bias, packed=self.packed, gelu=gelu)

    def fix(self, module: nn.Module) -> nn.Module:
        """See `for_inference`."""
        dtype = torch.bfloat16 if self.bfloat16 else torch.float32
        return for_inference(module, packed=self.packed, dtype=dtype)

    def fix_head(self, head: CenterHead) -> CenterHead:
        """The same for a head; what it returns is not rounded, since boxes are read from it."""
        for branch in BRANCHES:
            last = for_inference(head.get_submodule(f"conv5_{branch}"), packed=self.packed)
            setattr(head, f"conv5_{branch}", last)
        return cast(CenterHead, self.fix(head))

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Weighted values of (B, heads, n, head_dim) queries."""
        if self.bfloat16:
            return bfloat16_attention(query, key, value)
        return F.scaled_dot_product_attention(query, key, value)
