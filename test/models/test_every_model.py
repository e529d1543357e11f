# SPDX-License-Identifier: Apache-2.0
"""What holds for every registered model.

The large networks are made with fewer layers here: what a model adds to its family is wiring,
sizes and parameters. Parity tests load and run each network as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tracker_ros.checkpoints import read_weights, sha256_of, write_weights
from tracker_ros.models.one_stream.config import GRM_CONFIGS, OSTRACK_CONFIGS
from tracker_ros.models.trdimp.config import RESNET50, TRDIMP_MODELS, Augmentation
from tracker_ros.registry import create_tracker, empty_network, list_models, model_card

EMBEDDED_MAX_PARAMETERS = 6_000_000
EMBEDDED_MAX_BYTES = 12_000_000

models = pytest.mark.parametrize("name", list_models())


@pytest.fixture
def shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large networks have few layers, and TrDiMP sees the first image in few ways."""
    for configs in (OSTRACK_CONFIGS, GRM_CONFIGS):
        for name, config in configs.items():
            if config.stem == "patch":
                ce = {"ce_layers": (1, 2)} if getattr(config, "ce_layers", ()) else {}
                monkeypatch.setitem(configs, name, replace(config, depth=3, **ce))
    views = Augmentation(relative_shift=((0.6, 0.6),), blur=((3, 1),), rotate=(10,))
    for name, (network, parameters) in TRDIMP_MODELS.items():
        if network == RESNET50:
            few = replace(network, layers=(1, 1, 1, 1)), replace(parameters, augmentation=views)
            monkeypatch.setitem(TRDIMP_MODELS, name, few)


def noise(height: int = 120, width: int = 160) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)


@models
@pytest.mark.usefixtures("shallow")
def test_weights_round_trip_and_results_are_finite(
    name: str, tmp_path: Path, random_weights: Callable[[str], dict[str, torch.Tensor]]
) -> None:
    state = random_weights(name)
    path = tmp_path / "weights.safetensors"
    write_weights(state, path)
    found = read_weights(path)
    assert set(found) == set(state)
    assert all(torch.equal(found[key], value) for key, value in state.items())

    tracker = create_tracker(name, device="cpu", weights=path, build_engine=False)
    tracker.initialize(noise(), (40, 30, 50, 40))
    for _ in range(2):
        result = tracker.track(noise())
        assert np.isfinite([*result.box, result.score, *result.search_region]).all()
        assert min(result.box[2:]) > 0.0
        assert 0.0 <= result.score <= 1.0
        assert result.score_map is not None
        assert min(result.score_map.shape) > 4
        assert result.score_map.dtype == np.float32
        assert np.isfinite(result.score_map).all()
        assert 0.0 <= result.score_map.min() <= result.score_map.max() <= 1.0
        if result.mask is not None:
            assert result.mask.shape == noise().shape[:2]
            assert result.mask.dtype == bool


@models
def test_card_states_the_number_of_parameters(name: str) -> None:
    counted = sum(parameter.numel() for parameter in empty_network(name).parameters())
    assert model_card(name).parameters == counted


@pytest.mark.parametrize("name", [n for n in list_models() if model_card(n).weights])
def test_embedded_weights(name: str) -> None:
    import tracker_ros

    card = model_card(name)
    path = Path(tracker_ros.__file__).parent / "weights" / str(card.weights)
    assert sha256_of(path) == card.sha256
    assert path.stat().st_size <= EMBEDDED_MAX_BYTES
    assert card.parameters is not None
    assert card.parameters <= EMBEDDED_MAX_PARAMETERS
    tracker = create_tracker(name, device="cpu", build_engine=False)
    tracker.initialize(noise(), (40, 30, 50, 40))
    found = tracker.track(noise())
    assert np.isfinite(found.box).all()
    # The node hands over views of bgr8 messages, whose channels run backwards.
    backwards = np.ascontiguousarray(noise()[:, :, ::-1])[:, :, ::-1]
    tracker.initialize(backwards, (40, 30, 50, 40))
    assert tracker.track(backwards).box == found.box
