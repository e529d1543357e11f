# SPDX-License-Identifier: Apache-2.0
"""Preprocessing, backbone and classification features of TrDiMP."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from golden_files import document, fingerprint, golden, helper, seed_of, stats, trdimp_weights
from torch import Tensor
from trdimp_golden_network import golden_network, new_golden_network, relative_difference

from tracker_ros.crops import normalize
from tracker_ros.models.trdimp.config import RESNET50
from tracker_ros.models.trdimp.features import PatchFeatures
from tracker_ros.models.trdimp.inference import TrDiMPInference
from tracker_ros.models.trdimp.network import TrDiMPNetwork

TOLERANCE = 1e-5


def test_the_synthetic_weights_are_the_recorded_ones() -> None:
    wanted = str(golden("trdimp_backbone.npz")["state_fingerprint"])
    assert fingerprint(trdimp_weights()) == wanted


def test_preprocessing() -> None:
    file = golden("trdimp_backbone.npz")
    found = normalize(file["raw_image_u8"].transpose(1, 2, 0))[0]
    np.testing.assert_allclose(found, file["preprocessed"], rtol=0, atol=1e-6)


def test_keys_and_shapes_of_the_network() -> None:
    with torch.device("meta"):
        found = TrDiMPNetwork(RESNET50).state_dict()
    wanted = {key: tuple(shape) for key, shape in document("trdimp")["state_dict"].items()}
    assert {key: tuple(tensor.shape) for key, tensor in found.items()} == wanted


def plain_features(images: Tensor) -> PatchFeatures:
    network = golden_network()
    layer2, layer3 = network.feature_extractor(images)
    return PatchFeatures(layer2, layer3, network.classification_features(layer3))


def inference_features(images: Tensor, *, packed: bool) -> PatchFeatures:
    return TrDiMPInference(new_golden_network(), images.device, packed).features(images)


PATHS = {
    "network": plain_features,
    "inference": partial(inference_features, packed=False),
    "inference_packed": partial(inference_features, packed=True),
}


@pytest.mark.parametrize("path", PATHS)
@torch.inference_mode()
def test_every_stage(path: str) -> None:
    file = golden("trdimp_backbone.npz")
    images = torch.from_numpy(helper("trdimp_inputs").network_input(seed_of("trdimp")))
    layer2, layer3, classification = PATHS[path](images)
    for name, found, part in (
        ("layer2", layer2, layer2[:, ::8, ::3, ::3]),
        ("layer3", layer3, layer3[:, ::8, ::2, ::2]),
        ("clf", classification, classification[:, ::4]),
    ):
        assert relative_difference(part, file[f"{name}_sub"]) < TOLERANCE, name
        np.testing.assert_allclose(stats(found.numpy()), file[f"{name}_stats"], rtol=1e-5)
