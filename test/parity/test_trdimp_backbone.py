# SPDX-License-Identifier: Apache-2.0
"""Preprocessing, backbone and classification features of TrDiMP."""

from __future__ import annotations

import numpy as np
import torch
from golden_files import document, fingerprint, golden, helper, seed_of, stats, trdimp_weights
from trdimp_golden_network import relative_difference, with_golden_weights

from tracker_ros.crop import normalise
from tracker_ros.models.trdimp.config import RESNET50
from tracker_ros.models.trdimp.resnet import ResNet

TOLERANCE = 1e-5


def test_the_synthetic_weights_are_the_recorded_ones() -> None:
    wanted = str(golden("trdimp_backbone.npz")["state_fingerprint"])
    assert fingerprint(trdimp_weights()) == wanted


def test_preprocessing() -> None:
    file = golden("trdimp_backbone.npz")
    found = normalise(file["raw_image_u8"].transpose(1, 2, 0))[0]
    np.testing.assert_allclose(found, file["preprocessed"], rtol=0, atol=1e-6)


def test_keys_and_shapes_of_the_backbone() -> None:
    with torch.device("meta"):
        found = ResNet(RESNET50).state_dict()
    prefix = "feature_extractor."
    wanted = {
        key.removeprefix(prefix): tuple(shape)
        for key, shape in document("trdimp")["state_dict"].items()
        if key.startswith(prefix)
    }
    assert {key: tuple(tensor.shape) for key, tensor in found.items()} == wanted


@torch.inference_mode()
def test_both_stages() -> None:
    file = golden("trdimp_backbone.npz")
    images = torch.from_numpy(helper("trdimp_inputs").network_input(seed_of("trdimp")))
    with torch.device("meta"):
        backbone = ResNet(RESNET50)
    features = with_golden_weights(backbone, "feature_extractor.")(images)
    for name, found, step in (
        ("layer2", features.layer2, 3),
        ("layer3", features.layer3, 2),
    ):
        part = found[:, ::8, ::step, ::step]
        assert relative_difference(part, file[f"{name}_sub"]) < TOLERANCE, name
        np.testing.assert_allclose(stats(found.numpy()), file[f"{name}_stats"], rtol=1e-5)
