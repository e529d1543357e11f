# SPDX-License-Identifier: Apache-2.0
"""Opens the training task of a recipe's model; `model_cards.FAMILIES` says which that is."""

from __future__ import annotations

import importlib

from tracker_ros.model_cards import FAMILIES
from tracker_ros.registry import list_models, model_card
from tracker_ros.training.recipe import Recipe
from tracker_ros.training.tasks.task import TrainingTask


def open_task(recipe: Recipe) -> TrainingTask:
    """Return the task that trains a recipe's model.

    Raises:
        ValueError: there is no such model.
    """
    if recipe.model not in list_models():
        raise ValueError(
            f"model {recipe.model!r} cannot be trained; expected one of {', '.join(list_models())}"
        )
    module, _, name = FAMILIES[model_card(recipe.model).family].training.partition(":")
    return getattr(importlib.import_module(module), name)(recipe)
