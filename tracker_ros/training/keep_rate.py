# SPDX-License-Identifier: Apache-2.0
"""How many candidates elimination keeps while training.

Paper: Ye et al., ECCV 2022, section 3.4 (https://arxiv.org/abs/2203.11991). Official code:
https://github.com/botaoye/OSTrack (MIT), `lib/utils/ce_utils.py`; written anew.
"""

from __future__ import annotations

import math


def keep_rate_at(
    epoch: int, start_epoch: int = 20, warm_epochs: int = 80, final_rate: float = 0.7
) -> float:
    """Keep rate of every elimination layer in an epoch.

    Args:
        epoch: Counted from 1, as the trainer counts.
        start_epoch: Until then nothing is removed.
        warm_epochs: Over so many epochs the rate falls along half a cosine.
        final_rate: What it falls to.
    """
    if epoch < start_epoch:
        return 1.0
    if epoch >= start_epoch + warm_epochs:
        return final_rate
    progress = (epoch - start_epoch) / warm_epochs
    return final_rate + (1.0 - final_rate) * 0.5 * (1.0 + math.cos(math.pi * progress))
