# SPDX-License-Identifier: Apache-2.0
"""Folds batch norms into the layers before them; for engines and for the models' own inference.

It has a file of its own because both `engines` and `models` need it.
"""

from __future__ import annotations

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval


def fold_norms(module: nn.Module) -> nn.Module:
    """Fold every batch norm into the convolution or linear layer before it, in place.

    Args:
        module: In eval mode. A norm is folded where it directly follows its layer among the
            children of a module, in the order of registration; an identity takes its place.

    Returns:
        The same module.
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
