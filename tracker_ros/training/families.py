# SPDX-License-Identifier: Apache-2.0
"""Which task trains a model."""

from __future__ import annotations

from collections.abc import Callable

from tracker_ros.models.grm.config import GRM_CONFIGS
from tracker_ros.models.mast.config import MAST_MODELS
from tracker_ros.models.ostrack.config import OSTRACK_CONFIGS
from tracker_ros.models.trdimp.config import TRDIMP_MODELS
from tracker_ros.training.clip_task import ClipTask
from tracker_ros.training.pair_task import GRMTask, OSTrackTask
from tracker_ros.training.recipe import Recipe
from tracker_ros.training.reconstruction_task import ReconstructionTask
from tracker_ros.training.task import TrainingTask


def open_task(recipe: Recipe) -> TrainingTask:
    """The task of a recipe's model.

    Raises:
        ValueError: there is no such model.
    """
    tasks: dict[str, Callable[[Recipe], TrainingTask]] = {
        **dict.fromkeys(OSTRACK_CONFIGS, OSTrackTask),
        **dict.fromkeys(GRM_CONFIGS, GRMTask),
        **dict.fromkeys(TRDIMP_MODELS, ClipTask),
        **dict.fromkeys(MAST_MODELS, ReconstructionTask),
    }
    if recipe.model not in tasks:
        raise ValueError(
            f"model {recipe.model!r} cannot be trained; expected one of {', '.join(tasks)}"
        )
    return tasks[recipe.model](recipe)
