# SPDX-License-Identifier: Apache-2.0
"""MAST's colouriser in its variants, its search offsets, and its training.

The recorded float32 sums add 2500 weights one after the other and lose up to 2e-4 of what float64
finds. Plain torch, which adds them in the same order, is held to the recorded values; the compiled
operators, which do not, to float64.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from golden_files import golden
from mast_golden_network import golden_network
from torch import Tensor

from tracker_ros.cuda import build
from tracker_ros.cuda.local_attention import expected_offset
from tracker_ros.models.mast.config import BEHAVIOURS, PropagationParameters
from tracker_ros.models.mast.matching import (
    Reference,
    cell_labels,
    colourise,
    one_hot,
    search_dilation,
)
from tracker_ros.training.tasks.reconstruction import (
    copy_colours,
    drop_channel,
    reconstruct,
    reconstruction_loss,
)

GOLDEN = golden("mast_colorizer.npz")
TRAINING = golden("mast_train.npz")
SETS = GOLDEN.json("sets_json")
LONG = [name for name in SETS if f"{name}_offset_xy_0" in GOLDEN]
PARAMETERS = PropagationParameters()
CLASSES = 7
CPU = torch.device("cpu")


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where there is no compiler."""
    monkeypatch.setitem(build._found, ("local_attention", CPU), None)


def features(name: str, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.from_numpy(GOLDEN[f"feat_{name}"]).to(dtype)


def references(name: str, dtype: torch.dtype = torch.float32) -> list[Reference]:
    frames, current = SETS[name]
    labels = torch.from_numpy(GOLDEN["labels"])
    return [
        Reference(
            features(f"r{index}", dtype),
            one_hot(cell_labels(labels[index]), CLASSES)[None].to(dtype),
            current - frame,
        )
        for index, frame in enumerate(frames)
    ]


def labelled(name: str, behaviour: str, dtype: torch.dtype = torch.float32) -> np.ndarray:
    parameters = replace(PARAMETERS, behaviour=behaviour)
    return colourise(features("t", dtype), references(name, dtype), parameters).numpy()


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
@pytest.mark.parametrize("name", SETS)
def test_variants(plain: None, name: str, behaviour: str) -> None:
    wanted = GOLDEN[f"{name}_{behaviour}"]
    np.testing.assert_allclose(labelled(name, behaviour), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", SETS)
def test_compiled_operators(name: str) -> None:
    found = labelled(name, "fixed")
    exact = labelled(name, "fixed", torch.float64)
    np.testing.assert_allclose(found, exact, rtol=0, atol=5e-5)
    np.testing.assert_allclose(exact, GOLDEN[f"{name}_fixed"], rtol=0, atol=5e-4)


@pytest.mark.parametrize("name", LONG)
def test_search_offsets(plain: None, name: str) -> None:
    for index, reference in enumerate(references(name)):
        dilation = search_dilation(reference.gap, PARAMETERS)
        recorded = f"{name}_offset_xy_{index}"
        assert bool(dilation) == (recorded in GOLDEN)
        if dilation:
            found = expected_offset(features("t"), reference.features, PARAMETERS.radius, dilation)
            np.testing.assert_allclose(found, GOLDEN[recorded], rtol=0, atol=2e-5)


def test_each_repaired_fault_shows() -> None:
    def difference(name: str, one: str, other: str) -> float:
        return float(np.abs(labelled(name, one) - labelled(name, other)).max())

    # One offset for all long-term references: no difference with one such reference, one with two.
    assert difference("long1", "fixed", "official_torch11") < 1e-4
    assert difference("long2", "fixed", "official_torch11") > 0.1
    # Sampling half a cell beside: shows from the first long-term reference on.
    assert difference("short", "official_torch11", "official_modern") == 0.0
    assert difference("long1", "official_torch11", "official_modern") > 0.01


def test_long_term_begins_after_fifteen_frames() -> None:
    assert [search_dilation(gap, PARAMETERS) for gap in (1, 15, 16, 29, 30, 45, 999)] == [
        0, 0, 2, 2, 3, 4, 4,
    ]  # fmt: skip


def test_training_mode_and_its_gradients() -> None:
    # In float64, which shows that the recorded gradients themselves are off by up to 1.8e-5.
    query, key = (features(name).double().requires_grad_() for name in ("t", "r3"))
    colours = cell_labels(torch.from_numpy(GOLDEN["train_y"])).double()
    found = copy_colours(query, [key], [colours], radius=6)
    np.testing.assert_allclose(found.detach(), GOLDEN["train_out"], rtol=0, atol=1e-5)
    loss = reconstruction_loss(found, torch.from_numpy(GOLDEN["train_target"]))
    assert float(loss.detach()) == pytest.approx(float(GOLDEN["train_loss"]), rel=1e-5)
    loss.backward()
    for tensor, name in ((query, "t"), (key, "r")):
        wanted = GOLDEN[f"train_grad_feat_{name}"]
        np.testing.assert_allclose(tensor.grad, wanted, rtol=0, atol=3e-5 * np.abs(wanted).max())


def test_a_whole_training_step() -> None:
    network = golden_network().train().double()
    for parameter in network.parameters():
        parameter.requires_grad_()
    images = torch.from_numpy(TRAINING["train_in"]).double()
    (channel,) = (int(c) for c in TRAINING["dropped_channels"])
    dropped = drop_channel(images, channel)[..., ::4, ::4]
    np.testing.assert_allclose(dropped, TRAINING["after_dropout_sub"], rtol=0, atol=1e-6)

    reference, target = images.chunk(2)
    found = reconstruct(network, [reference], target, channel)
    # Scores reach 7e4, where a step of float32 is 0.008: so far off are the recorded values
    # themselves, as float64 shows.
    error = np.abs(found.detach().numpy() - TRAINING["out"])
    assert np.quantile(error, 0.98) < 1e-5
    assert error.max() < 1e-3
    loss = reconstruction_loss(found, target[:, channel : channel + 1])
    assert float(loss.detach()) == pytest.approx(float(TRAINING["loss"]), rel=1e-5)
    loss.backward()
    stem = network.feature_extraction.conv1
    for gradient, name in (
        (network.post_convolution.weight.grad[::4, ::16], "grad_post_conv"),
        (stem[0].weight.grad[::4], "grad_conv1"),
    ):
        wanted = TRAINING[name]
        assert np.abs(gradient.numpy() - wanted).max() < 5e-3 * np.abs(wanted).max(), name
    for name in ("running_mean", "running_var"):
        recorded = TRAINING[f"bn_{name}_after"]
        np.testing.assert_allclose(getattr(stem[1], name), recorded, rtol=1e-5, atol=1e-6)
