# SPDX-License-Identifier: Apache-2.0
"""Which task trains a model."""

from __future__ import annotations

from collections.abc import Callable

from tracker_ros.models.mast.config import MAST_MODELS
from tracker_ros.models.one_stream.config import GRM_CONFIGS, OSTRACK_CONFIGS
from tracker_ros.models.trdimp.config import TRDIMP_MODELS
from tracker_ros.training.recipe import Recipe
from tracker_ros.training.tasks.clip import ClipTask
from tracker_ros.training.tasks.pair import GRMTask, OSTrackTask
from tracker_ros.training.tasks.reconstruction import ReconstructionTask
from tracker_ros.training.tasks.task import TrainingTask


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
