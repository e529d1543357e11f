# SPDX-License-Identifier: Apache-2.0
"""Recipes: reading, refusing, the learning rate."""

from pathlib import Path

import pytest

from tracker_ros.training.recipe import Recipe, load_recipe

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_every_recipe_in_the_repository_is_valid(path):
    assert load_recipe(path).steps > 0


def test_there_is_a_recipe_for_the_embedded_model():
    assert any(load_recipe(path).model == "ostrack_tiny" for path in RECIPES)


def written(tmp_path, text):
    """A recipe file with this text."""
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return path


def test_nested_values_are_read_and_whole_numbers_serve_as_floats(tmp_path):
    recipe = load_recipe(
        written(
            tmp_path,
            "learning_rate: 1\nsources: [{kind: coco, path: /data, weight: 2}]\n"
            "pairs: {occluder_fraction: 0.5, photometric: {gain: 0.3}}\n",
        )
    )
    assert recipe.learning_rate == 1.0
    assert recipe.sources[0].kind == "coco"
    assert recipe.sources[0].weight == 2.0
    assert recipe.pairs.occluder_fraction == 0.5
    assert recipe.pairs.photometric.gain == 0.3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stepz: 10", "unknown stepz"),
        ("steps: many", "steps: expected int, got 'many'"),
        ("pairs: {absent: 1}", "pairs: unknown absent"),
        ("precision: fp8", "'fp32' or 'bf16'"),
        ("steps: 10\nwarmup_steps: 8\ndecay_steps: 8", "exceed steps 10"),
        ("sources: []", "at least one"),
        ("- a list", "expected a mapping"),
    ],
)
def test_mistakes_are_named(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        load_recipe(written(tmp_path, text))


def test_the_rate_rises_stays_and_falls():
    recipe = Recipe(steps=100, warmup_steps=10, decay_steps=20, learning_rate=1.0)
    assert recipe.rate(0) == pytest.approx(0.1)
    assert recipe.rate(9) == recipe.rate(50) == recipe.rate(80) == 1.0
    assert recipe.rate(90) == pytest.approx(0.5)
    assert recipe.rate(99) == pytest.approx(0.05)
