# SPDX-License-Identifier: Apache-2.0
"""Lab conversion, features and one-hot labels of MAST."""

from __future__ import annotations

import numpy as np
import torch
from golden_files import document, fingerprint, golden, helper, mast_weights, seed_of, stats
from mast_golden_network import golden_network

from tracker_ros.models.mast.config import MAST_RESNET18
from tracker_ros.models.mast.images import network_input, rgb_to_lab
from tracker_ros.models.mast.matching import cell_labels, one_hot
from tracker_ros.models.mast.network import MASTNetwork

GOLDEN = golden("mast_features.npz")
TOLERANCE = 1e-4


def test_the_synthetic_weights_are_the_recorded_ones() -> None:
    assert fingerprint(mast_weights()) == str(GOLDEN["state_fingerprint"])


def test_keys_and_shapes_of_the_network() -> None:
    with torch.device("meta"):
        found = MASTNetwork(MAST_RESNET18).state_dict()
    wanted = {key: tuple(shape) for key, shape in document("mast")["state_dict"].items()}
    assert {key: tuple(tensor.shape) for key, tensor in found.items()} == wanted


def test_lab() -> None:
    image = GOLDEN["frame0_u8"]
    np.testing.assert_allclose(rgb_to_lab(image)[::3, ::3], GOLDEN["lab_raw"], rtol=0, atol=1e-3)
    found = network_input(image)[..., ::3, ::3]
    np.testing.assert_allclose(found, GOLDEN["lab_normalised"], rtol=0, atol=1e-5)


@torch.inference_mode()
def test_features() -> None:
    network = golden_network()
    backbone = network.feature_extraction(torch.from_numpy(network_input(GOLDEN["frame0_u8"])))
    feature = network.post_convolution(backbone)
    for found, name, part in (
        (backbone, "backbone_sub", backbone[:, ::8, ::2, ::2]),
        (feature, "feature", feature[:, ::2]),
    ):
        np.testing.assert_allclose(part.numpy(), GOLDEN[name], rtol=0, atol=TOLERANCE)
        recorded = GOLDEN[f"{name.removesuffix('_sub')}_stats"]
        np.testing.assert_allclose(stats(found.numpy()), recorded, rtol=1e-4, atol=1e-6)


@torch.inference_mode()
def test_features_of_an_odd_size() -> None:
    height, width = (int(n) for n in GOLDEN["odd_input_hw"])
    seeded_input = helper("seeded_state").seeded_input
    image = torch.from_numpy(seeded_input("mast_odd", (1, 3, height, width), seed_of("mast")))
    found = golden_network()(image)
    assert tuple(found.shape[2:]) == tuple(GOLDEN["odd_feature_hw"])
    np.testing.assert_allclose(found[:, ::4], GOLDEN["odd_feature_sub"], rtol=0, atol=TOLERANCE)


def test_one_hot_labels() -> None:
    found = one_hot(cell_labels(torch.from_numpy(GOLDEN["labels0"])), 7)
    np.testing.assert_array_equal(found[None], GOLDEN["one_hot_prep"])


def test_a_cell_takes_its_first_pixel_also_at_an_odd_border() -> None:
    wanted = GOLDEN["one_hot_prep_odd_argmax"]
    pixels = np.repeat(np.repeat(wanted + 1, 4, axis=0), 4, axis=1)
    pixels[::4, ::4] = wanted
    height, width = (int(n) for n in GOLDEN["odd_input_hw"])
    found = cell_labels(torch.from_numpy(pixels[:height, :width]))
    np.testing.assert_array_equal(found, wanted)
