# SPDX-License-Identifier: Apache-2.0
"""TrDiMP's backbone as a graph, and what all its graphs share.

Paper and official code: see `network.py`. Written for this package; the official code has no
counterpart. Here and in `graph_memory.py`, `graph_filter.py` and `graph_boxes.py` each module
called a part is one `Graph` of `graphs.py`: fixed shapes, plain operators that export; it takes
tensors and returns a tuple of them. Norms sum in float32 in half precision too.
"""

from __future__ import annotations

import copy
from typing import cast

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from tracker_ros.models.trdimp.memory_transformer import InstanceL2Norm
from tracker_ros.models.trdimp.network import TrDiMPNetwork


def without_norms(module: nn.Module) -> nn.Module:
    """Fold batch norms into the layers before them, in place.

    Args:
        module: In eval mode; a batch norm directly follows its layer among a module's children.
    """
    last, layer = "", module
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm1d) and isinstance(layer, nn.Linear):
            setattr(module, last, fuse_linear_bn_eval(layer, child))
            setattr(module, name, nn.Identity())
        elif isinstance(child, nn.BatchNorm2d) and isinstance(layer, nn.Conv2d):
            setattr(module, last, fuse_conv_bn_eval(layer, child))
            setattr(module, name, nn.Identity())
        else:
            without_norms(child)
        last, layer = name, child
    return module


def with_norm(tokens: Tensor, scale: float) -> Tensor:
    """(..., n, C) -> the same, every image of root mean square `scale`; see `InstanceL2Norm`."""
    norm, wide = InstanceL2Norm(scale), tokens.float()
    return norm(wide.unsqueeze(-3)).squeeze(-3).to(tokens.dtype)


def tokens_of(image: Tensor) -> Tensor:
    """(1, C, h, w) -> (n, C)."""
    return image[0].flatten(1).transpose(0, 1)


class PatchPart(nn.Module):
    """What the network sees in a patch.

    Args:
        network: Loaded, in eval mode.
    """

    def __init__(self, network: TrDiMPNetwork) -> None:
        super().__init__()
        self.backbone = copy.deepcopy(network.feature_extractor)
        for unread in ("layer4", "fc"):
            if hasattr(self.backbone, unread):
                delattr(self.backbone, unread)
        without_norms(self.backbone)
        conv, norm = network.classifier.feature_extractor
        self.conv = copy.deepcopy(conv)
        self.scale = cast(InstanceL2Norm, norm).scale

    def forward(self, patch: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(1, 3, S, S) normalised RGB -> features; see `PatchFeatures`."""
        layer2, layer3 = self.backbone(patch)
        classification = self.conv(layer3)
        tokens = with_norm(classification.flatten(2), self.scale)
        return layer2, layer3, tokens.view_as(classification)
