# SPDX-License-Identifier: Apache-2.0
"""Linear and convolution layers as inference wants them: norms folded, weights laid out once.

On a CPU torch multiplies float32 matrices through its BLAS, and hands oneDNN only convolutions.
With weights reordered once into oneDNN's own blocked layout the same products run at the same
precision and, on processors the BLAS does not favour, at twice the speed (measured in
`docs/models.md`); an activation is fused into the product. The operators are those that
`torch.compile` emits for CPUs. Where this build of torch lacks them, and on GPUs, the plain ones
are used. Written for this package; the official code has no counterpart.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

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
