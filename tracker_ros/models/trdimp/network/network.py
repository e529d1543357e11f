# SPDX-License-Identifier: Apache-2.0
"""TrDiMP's network: backbone, target classifier with its memory transformer, IoU branch.

Paper: Wang et al., "Transformer Meets Tracker: Exploiting Temporal Context for Robust Visual
Tracking", CVPR 2021 (https://arxiv.org/abs/2103.11681).
Official code: https://github.com/594422814/TransformerTrack (MIT),
`ltr/models/tracking/dimpnet.py`. Written anew; for `trdimp_resnet50` the state-dict keys and
shapes are the official ones. TrSiam is the same network.

The parts are differentiable and serve training. What a tracker runs is `inference.py`.
"""

from __future__ import annotations

from torch import Tensor, nn

from tracker_ros.models.layers.resnet import ResNet
from tracker_ros.models.trdimp.config import TrDiMPConfig
from tracker_ros.models.trdimp.network.iou_net import IoUNet
from tracker_ros.models.trdimp.network.memory_transformer import InstanceL2Norm, MemoryTransformer
from tracker_ros.models.trdimp.network.target_filter import FilterInitializer, FilterOptimizer


class TargetClassifier(nn.Module):
    """All that tells the target from the rest: features, memory, filter.

    Args:
        config: Sizes.
    """

    def __init__(self, config: TrDiMPConfig) -> None:
        super().__init__()
        self.feature_extractor = nn.Sequential(
            nn.Conv2d(config.layer3_dim, config.feature_dim, 3, padding=1, bias=False),
            InstanceL2Norm(config.norm_scale),
        )
        self.filter_initializer = FilterInitializer(config)
        self.filter_optimizer = FilterOptimizer(config)
        self.transformer = MemoryTransformer(config.feature_dim, config.key_dim, config.norm_scale)


class TrDiMPNetwork(nn.Module):
    """The whole network under the official names.

    Args:
        config: Sizes.
    """

    def __init__(self, config: TrDiMPConfig) -> None:
        super().__init__()
        self.config = config
        self.feature_extractor = ResNet(config)
        self.classifier = TargetClassifier(config)
        self.bb_regressor = IoUNet(config)

    def classification_features(self, layer3: Tensor) -> Tensor:
        """(N, layer3_dim, h, w) -> (N, feature_dim, h, w), every image normalised."""
        return self.classifier.feature_extractor(layer3)
