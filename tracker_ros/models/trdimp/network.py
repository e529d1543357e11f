# SPDX-License-Identifier: Apache-2.0
"""The network of TrDiMP and TrSiam: backbone, target classifier, memory transformer, IoU branch.

Paper: Wang et al., "Transformer Meets Tracker: Exploiting Temporal Context for Robust Visual
Tracking", CVPR 2021 (https://arxiv.org/abs/2103.11681). The IoU branch predicts how well a box
fits the target: Danelljan, Bhat, Khan, Felsberg, "ATOM: Accurate Tracking by Overlap
Maximization", CVPR 2019 (https://arxiv.org/abs/1811.07628). Official code:
https://github.com/594422814/TransformerTrack (MIT, built on pytracking),
`ltr/models/tracking/dimpnet.py` and `ltr/models/bbreg/atom_iou_net.py`. Written anew; for
`trdimp_resnet50` the state-dict keys and shapes are the official ones. TrSiam is the same network.

These modules are differentiable and serve training; trackers run `inference.py`. Boxes are xywh in
crop pixels.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn

from tracker_ros.cuda.prroi_pool import pool_boxes
from tracker_ros.geometry import xywh_to_xyxy
from tracker_ros.models.layers.resnet import ResNet
from tracker_ros.models.trdimp.config import TrDiMPConfig
from tracker_ros.models.trdimp.features import Modulation
from tracker_ros.models.trdimp.memory_transformer import InstanceL2Norm, MemoryTransformer
from tracker_ros.models.trdimp.target_filter import FilterInitializer, FilterOptimizer

LAYER2_STRIDE = 8
LAYER3_STRIDE = 16
LAYER2_POOL = 5
LAYER3_POOL = 3
_LAYER2_REFERENCE_POOL = 3
_LAYER3_REFERENCE_POOL = 1


class BackboneFeatures(Protocol):
    """Features of N images that the IoU branch reads."""

    @property
    def layer2(self) -> Tensor:
        """(N, layer2_dim, H / 8, W / 8)."""

    @property
    def layer3(self) -> Tensor:
        """(N, layer3_dim, H / 16, W / 16)."""


class IoUFeatures(NamedTuple):
    """Features that proposals are pooled from, at strides 8 and 16: (N, iou_dim, h, w) each."""

    layer2: Tensor
    layer3: Tensor


def conv_block(inputs: int, outputs: int, size: int = 3, padding: int = 1) -> nn.Sequential:
    """Return a convolution with batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, padding=padding),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class LinearBlock(nn.Module):
    """A linear layer over a pooled region, batch norm and ReLU."""

    def __init__(self, inputs: int, outputs: int, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs * size * size, outputs)
        self.bn = nn.BatchNorm1d(outputs)

    def forward(self, pooled: Tensor) -> Tensor:
        """(R, inputs, size, size) -> (R, outputs)."""
        return self.bn(self.linear(pooled.flatten(1))).relu()


class IoUNet(nn.Module):
    """Predicts the overlap of boxes with a target seen in another image."""

    def __init__(self, config: TrDiMPConfig) -> None:
        super().__init__()
        reference, dim = config.iou_reference_dim, config.iou_dim
        self.conv3_1r = conv_block(config.layer2_dim, reference)
        self.conv3_1t = conv_block(config.layer2_dim, dim)
        self.conv3_2t = conv_block(dim, dim)
        self.fc3_1r = conv_block(reference, dim, _LAYER2_REFERENCE_POOL, padding=0)
        self.conv4_1r = conv_block(config.layer3_dim, dim)
        self.conv4_1t = conv_block(config.layer3_dim, dim)
        self.conv4_2t = conv_block(dim, dim)
        self.fc34_3r = conv_block(2 * dim, dim, 1, padding=0)
        self.fc34_4r = conv_block(2 * dim, dim, 1, padding=0)
        self.fc3_rt = LinearBlock(dim, dim, LAYER2_POOL)
        self.fc4_rt = LinearBlock(dim, dim, LAYER3_POOL)
        self.iou_predictor = nn.Linear(2 * dim, 1)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight)
                nn.init.zeros_(cast(nn.Parameter, module.bias))

    def test_features(self, features: BackboneFeatures) -> IoUFeatures:
        """Return the features of the searched images that proposals are pooled from."""
        return IoUFeatures(
            self.conv3_2t(self.conv3_1t(features.layer2)),
            self.conv4_2t(self.conv4_1t(features.layer3)),
        )

    def modulation(self, features: BackboneFeatures, boxes: Tensor) -> Modulation:
        """Describe the targets in N reference images, each in its box, (N, 4) xywh."""
        places = xywh_to_xyxy(boxes)[:, None]
        narrow = self.conv3_1r(features.layer2)
        layer2 = pool_boxes(narrow, places, _LAYER2_REFERENCE_POOL, 1 / LAYER2_STRIDE)[:, 0]
        wide = self.conv4_1r(features.layer3)
        layer3 = pool_boxes(wide, places, _LAYER3_REFERENCE_POOL, 1 / LAYER3_STRIDE)[:, 0]
        both = torch.cat([self.fc3_1r(layer2), layer3], dim=1)
        return Modulation(self.fc34_3r(both), self.fc34_4r(both))

    def predict(
        self, modulation: Modulation, iou_features: IoUFeatures, proposals: Tensor
    ) -> Tensor:
        """Predict the overlaps of (N, P, 4) xywh proposals with the targets of N reference images.

        Returns (N, P), on the scale that the branch was trained on.
        """
        # Factors on channels, so the pooled features can take them as well as the whole maps.
        places = xywh_to_xyxy(proposals)
        layer2 = pool_boxes(iou_features.layer2, places, LAYER2_POOL, 1 / LAYER2_STRIDE)
        layer3 = pool_boxes(iou_features.layer3, places, LAYER3_POOL, 1 / LAYER3_STRIDE)
        layer2 = (layer2 * modulation.layer2[:, None]).flatten(0, 1)
        layer3 = (layer3 * modulation.layer3[:, None]).flatten(0, 1)
        both = torch.cat([self.fc3_rt(layer2), self.fc4_rt(layer3)], dim=1)
        return self.iou_predictor(both).reshape(proposals.shape[:2])


class TargetClassifier(nn.Module):
    """Tells the target from everything else: features, memory and filter."""

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
    """The whole network under the official names."""

    def __init__(self, config: TrDiMPConfig) -> None:
        super().__init__()
        self.config = config
        self.feature_extractor = ResNet(config)
        self.classifier = TargetClassifier(config)
        self.bb_regressor = IoUNet(config)

    def classification_features(self, layer3: Tensor) -> Tensor:
        """(N, layer3_dim, h, w) -> (N, feature_dim, h, w), every image normalised."""
        return self.classifier.feature_extractor(layer3)
