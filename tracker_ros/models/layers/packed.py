# SPDX-License-Identifier: Apache-2.0
"""Layers with fixed weights for inference, in fp32, bf16 or int8.

On a CPU torch multiplies float32 matrices through its BLAS and gives oneDNN only the convolutions.
With weights reordered once into oneDNN's blocked layout, the same products have the same precision
and take half the time on processors that the BLAS does not favour (measured in `docs/models.md`);
an activation is fused into the product. The operators are those that `torch.compile` emits for
CPUs. Plain operators are used on GPUs and where this build of torch lacks the others.

In bf16, weights and layer outputs are bfloat16; sums and the residual stream of a transformer are
float32. In int8, the weights of linear layers are 8-bit integers with one scale per output, and
each input is rounded to 8 bits by its own minimum and maximum, so nothing needs calibration; the
rest is as in bf16, or float32 where the processor has no bfloat16. Norms, softmax and sums stay
float32. Written for this package; the official codes have no counterpart.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tracker_ros.engines.half_precision import fold_norms
from tracker_ros.models.layers.center_head import BRANCHES, CenterHead

in_float32 = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
"""Decorator for functions with convolutions. By default GPUs compute those in TF32, with three
digits: in a tracker that learns online, boxes would end up pixels away."""

Linear = Callable[[Tensor], Tensor]


def can_pack(device: torch.device) -> bool:
    """Return whether this build of torch has oneDNN's prepacked layers for `device`."""
    return (
        device.type == "cpu"
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
    )


def _cpu_has(name: str) -> bool:
    """Return whether torch knows a CPU feature by that name and this CPU has it."""
    return bool(getattr(torch.cpu, name, lambda: False)())


def can_bfloat16(device: torch.device) -> bool:
    """Return whether bfloat16 products are faster than float32 ones on `device`."""
    return can_pack(device) and (
        _cpu_has("_is_avx512_bf16_supported") or _cpu_has("_is_amx_tile_supported")
    )


def can_int8(device: torch.device) -> bool:
    """Return whether 8-bit products are exact and fast on `device`: a CPU with VNNI."""
    # Without VNNI, pairs of products are added in 16 bits and may overflow.
    return (
        device.type == "cpu"
        and hasattr(torch, "quantize_per_channel")
        and hasattr(torch.ops.quantized, "linear_dynamic")
        and _cpu_has("_is_vnni_supported")
    )


def precisions(device: torch.device) -> tuple[str, ...]:
    """Return the precisions that `Layers` supports on `device`, most exact first."""
    reduced = {"bf16": can_bfloat16(device), "int8": can_int8(device)}
    return ("fp32", *(name for name, possible in reduced.items() if possible))


class InferenceLinear:
    """Computes `x W^T + b` with an optional exact GELU; the weights are fixed.

    The weight is (outputs, inputs) float32, laid out for oneDNN if `packed`; the bias is
    (outputs,) float32 or None.
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
        """(..., inputs) -> (..., outputs); `bias` (outputs,) replaces the fixed one if given."""
        bias = self.bias if bias is None else bias
        if self.packed:
            activation = "gelu" if self.gelu else "none"
            return torch.ops.mkldnn._linear_pointwise(
                tokens, self.weight, bias, activation, [], "none"
            )
        result = F.linear(tokens, self.weight, bias)
        return F.gelu(result) if self.gelu else result


class BFloat16Linear:
    """Like `InferenceLinear`, with bfloat16 factors and output and float32 sums."""

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
    """Like `InferenceLinear`, with 8-bit factors and float32 output."""

    def __init__(self, weight: Tensor, bias: Tensor | None, *, gelu: bool = False) -> None:
        weight = weight.detach().contiguous()
        scale = weight.abs().amax(dim=1).double().clamp(min=1e-12) / 127.0
        zero_point = torch.zeros(len(weight), dtype=torch.int64)
        with warnings.catch_warnings():
            # Torch plans to replace its 8-bit tensors; `can_int8` asks whether they are there.
            warnings.filterwarnings("ignore", message=".*quantize_per_channel.*deprecated")
            rounded = torch.quantize_per_channel(weight, scale, zero_point, 0, torch.qint8)
        kept = None if bias is None else bias.detach()
        self.packed = torch.ops.quantized.linear_prepack(rounded, kept)
        self.gelu = gelu

    def __call__(self, tokens: Tensor) -> Tensor:
        """(..., inputs) of any floating type -> (..., outputs) float32."""
        result = torch.ops.quantized.linear_dynamic(tokens.float(), self.packed)
        return F.gelu(result) if self.gelu else result


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

    def forward(self, image: Tensor, plus: Tensor | None = None) -> Tensor:
        """Convolve (B, inputs, H, W); `plus`, of the output's shape, is added before the ReLU."""
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
    """Fold the batch norms of a module tree and fix its convolutions, in place.

    Args:
        module: In eval mode. In a `Sequential`, a convolution also takes over the ReLU after it.
        packed: Lay weights out for oneDNN.
        dtype: Type that convolutions compute in; None for their weights'.

    Returns:
        The module, or its replacement if it is a convolution or a `Sequential` itself.
    """
    return _fix_convolutions(fold_norms(module), packed, dtype)


def _fix_convolutions(module: nn.Module, packed: bool, dtype: torch.dtype | None) -> nn.Module:
    if isinstance(module, nn.Conv2d):
        return InferenceConv(module, packed=packed, dtype=dtype)
    if not isinstance(module, nn.Sequential):
        for name, child in module.named_children():
            setattr(module, name, _fix_convolutions(child, packed, dtype))
        return module
    chain: list[nn.Module] = []
    for layer in module:
        if isinstance(layer, nn.ReLU) and chain and isinstance(chain[-1], InferenceConv):
            chain[-1].relu = True
        elif not isinstance(layer, nn.Identity):
            chain.append(_fix_convolutions(layer, packed, dtype))
    return nn.Sequential(*chain)


def bfloat16_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return weighted values (B, heads, n, head_dim): bfloat16 products, float32 softmax."""
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
        """Return the layers for a device in one of its `precisions`; raises ValueError for others.

        `packed` uses oneDNN's prepacked layers; None uses them where this build of torch has them.
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
        """Return a linear layer with an optional exact GELU."""
        if self.precision == "int8":
            return Int8Linear(weight, bias, gelu=gelu)
        if self.precision == "bf16":
            return BFloat16Linear(weight, bias, gelu=gelu)
        return InferenceLinear(weight, bias, packed=self.packed, gelu=gelu)

    def fix(self, module: nn.Module) -> nn.Module:
        """Prepare a module tree in place; see `for_inference`."""
        dtype = torch.bfloat16 if self.bfloat16 else torch.float32
        return for_inference(module, packed=self.packed, dtype=dtype)

    def fix_head(self, head: CenterHead) -> CenterHead:
        """Prepare a head in place. Its last layers stay float32: boxes are read from them."""
        for branch in BRANCHES:
            last = for_inference(head.get_submodule(f"conv5_{branch}"), packed=self.packed)
            setattr(head, f"conv5_{branch}", last)
        return cast(CenterHead, self.fix(head))

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return the weighted values of (B, heads, n, head_dim) queries."""
        if self.bfloat16:
            return bfloat16_attention(query, key, value)
        return F.scaled_dot_product_attention(query, key, value)
