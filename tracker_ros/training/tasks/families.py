# SPDX-License-Identifier: Apache-2.0
"""Opens the training task of a recipe's model; `model_cards.FAMILIES` says which that is."""

from __future__ import annotations

import importlib

from tracker_ros.model_cards import family_of
from tracker_ros.training.recipe import Recipe
from tracker_ros.training.tasks.task import TrainingTask


def open_task(recipe: Recipe) -> TrainingTask:
    """Return the task that trains a recipe's model.

    Raises:
        ValueError: there is no such model.
    """
    module, _, name = family_of(recipe.model).training.partition(":")
    return getattr(importlib.import_module(module), name)(recipe)
