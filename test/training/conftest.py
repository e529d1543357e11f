# SPDX-License-Identifier: Apache-2.0
"""Models small enough for tests, short recipes, and one finished run of each."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from tracker_ros.model_cards import FAMILIES
from tracker_ros.models.mast.config import MASTConfig
from tracker_ros.models.one_stream.config import GRM_TINY, OSTRACK_TINY
from tracker_ros.models.trdimp.config import TINY, TINY_TRACKING
from tracker_ros.models.two_stream.config import TwoStreamConfig
from tracker_ros.synthetic.moving_scenes import FrameConfig
from tracker_ros.training.recipe import Recipe
from tracker_ros.training.trainer import Trainer

CPU = torch.device("cpu")
SMALL = {
    "template_size": 32,
    "search_size": 64,
    "embed_dim": 48,
    "depth": 3,
    "num_heads": 2,
    "head_channels": 16,
    "stem_channels": (8, 12, 24),
}
SHORT = Recipe(
    steps=4,
    batch_size=4,
    learning_rate=1e-3,
    warmup_steps=1,
    decay_steps=1,
    precision="fp32",
    loader_workers=0,
    validate_every=4,
    validation_samples=8,
)
RECIPES = {
    "pairs": replace(SHORT, model="ostrack_micro", batch_size=2),
    "clips": replace(SHORT, model="trdimp_micro", gradient_clip=10.0, filter_iterations=2),
    "tracks": replace(SHORT, model="two_stream_micro", batch_size=2, frozen_steps=2),
    "runs": replace(
        SHORT,
        model="mast_micro",
        batch_size=2,
        learning_rate=2e-3,
        one_reference_steps=2,
        frames=FrameConfig(size=64, pan=1.0, speed=1.0),
    ),
}
"""By the unit that a task counts in."""


MICRO = {
    "ostrack": replace(OSTRACK_TINY, **SMALL),
    "grm": replace(GRM_TINY, division_widths=(24, 12), **SMALL),
    "trdimp": (
        replace(TINY, width=8, feature_dim=16, key_dim=8, iou_reference_dim=8, iou_dim=16),
        replace(TINY_TRACKING, image_sample_size=96),
    ),
    "two_stream": TwoStreamConfig(
        template_size=64,
        search_size=64,
        embed_dim=16,
        key_dim=96,
        depth=1,
        num_heads=2,
        head_channels=16,
        template_cells=4,
    ),
    "mast": (MASTConfig(widths=(8, 8, 16, 16, 16), blocks=1, feature_dim=8), 64),
}


@pytest.fixture(scope="module", autouse=True)
def micro_models():
    """Models that train in no time, such as "ostrack_micro"."""
    with pytest.MonkeyPatch.context() as patch:
        for name, config in MICRO.items():
            family = FAMILIES[name]
            models = {**family.models, f"{name}_micro": config}
            patch.setitem(FAMILIES, name, replace(family, models=models))
        yield


@pytest.fixture(scope="module", autouse=True)
def short_logging():
    """Measure the statistics of batch normalisation on two batches only, and draw no curves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tracker_ros.training.trainer.STATISTICS_BATCHES", 2)
        patch.setattr("tracker_ros.training.trainer.plot_curve", lambda *given: None)
        yield


@dataclass(frozen=True)
class Runs:
    """A finished run, and one of the same recipe that was broken off and resumed."""

    whole: Trainer
    resumed: Trainer
    resumed_at: int


@pytest.fixture(scope="module", params=RECIPES)
def runs(request, micro_models, short_logging, tmp_path_factory) -> Runs:
    """Both, for each kind of sample."""
    recipe: Recipe = RECIPES[request.param]
    folder: Path = tmp_path_factory.mktemp(request.param)
    whole = Trainer(recipe, folder / "whole", CPU)
    whole.run()
    first = Trainer(replace(recipe, steps=2, decay_steps=0), folder / "broken", CPU)
    first.run()
    torch.manual_seed(123)  # a new process draws other numbers
    second = Trainer(recipe, folder / "broken", CPU)
    resumed_at = second.step
    second.run()
    return Runs(whole, second, resumed_at)
