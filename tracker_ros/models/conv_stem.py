# SPDX-License-Identifier: Apache-2.0
"""Convolutional stem: patch embedding for the compact models.

Paper: Xiao et al., "Early Convolutions Help Transformers See Better", NeurIPS 2021
(https://arxiv.org/abs/2106.14881): a few small strided convolutions in place of the one projection
with a large stride make a vision transformer train faster and with less data. Written for this
package; differs from the paper by one residual convolution before the last stride.
"""

from __future__ import annotations

from torch import Tensor, nn


def conv_norm(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """3 x 3 convolution and batch norm: (B, inputs, H, W) -> (B, outputs, H/stride, W/stride)."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
    )


class ConvStem(nn.Module):
    """Images to tokens' feature map by strided 3×3 convolutions.

    Args:
        channels: Channels after each stride-2 convolution but the last.
        embed_dim: Channels of the output.

    The stride is ``2 ** (len(channels) + 1)``.
    """

    def __init__(self, channels: tuple[int, ...], embed_dim: int) -> None:
        super().__init__()
        widths = (3, *channels)
        self.downsample = nn.ModuleList(
            conv_norm(widths[i], widths[i + 1], stride=2) for i in range(len(channels))
        )
        self.residual = conv_norm(channels[-1], channels[-1], stride=1)
        self.project = nn.Conv2d(channels[-1], embed_dim, 3, stride=2, padding=1)
        self.activation = nn.ReLU(inplace=True)

    def forward(self, image: Tensor) -> Tensor:
        """Embed images.

        Args:
            image: (B, 3, H, W) float, normalised; H and W divisible by the stride.

        Returns:
            (B, embed_dim, H/stride, W/stride) float.
        """
        x = image
        for layer in self.downsample:
            x = self.activation(layer(x))
        x = self.activation(x + self.residual(x))
        return self.project(x)
