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
    ("text", "place", "words"),
    [
        ("stepz: 10", "", ["stepz", "did you mean 'steps' for 'stepz'?", "learning_rate"]),
        ("steps: many", ".steps", ["a whole number", "'many'"]),
        ("steps: 10.5", ".steps", ["a whole number", "10.5"]),
        ("steps: true", ".steps", ["a whole number", "True"]),
        ("steps:", ".steps", ["a whole number", "None"]),
        ("learning_rate: 6e-4", ".learning_rate", ["a number", "'6e-4'"]),
        ("learning_rate: yes", ".learning_rate", ["a number", "True"]),
        ("learning_rate: .nan", ".learning_rate", ["a finite number", "nan"]),
        ("model: 3", ".model", ["text", "3"]),
        ("pairs: {absent: 1}", ".pairs", ["absent", "absent_fraction"]),
        ("pairs: 3", ".pairs", ["a mapping", "3"]),
        ("pairs: {photometric: {gain: [1]}}", ".pairs.photometric.gain", ["a number", "[1]"]),
        ("clips: {train_crops: two}", ".clips.train_crops", ["a whole number", "'two'"]),
        ("frames: {size: 1.5}", ".frames.size", ["a whole number", "1.5"]),
        ("sources: 3", ".sources", ["a list", "3"]),
        ("sources: [{}, 3]", ".sources[1]", ["a mapping", "3"]),
        ("sources: [{}, {wait: 2}]", ".sources[1]", ["wait", "weight"]),
        ("sources: [{weight: heavy}]", ".sources[0].weight", ["a number", "'heavy'"]),
        ("sources: []", "", ["sources", "at least one"]),
        ("sources: [{weight: 0}]", "", ["sources", "weight above 0"]),
        ("precision: fp8", "", ["precision 'fp8'", "fp32 or bf16"]),
        ("steps: 10\nwarmup_steps: 8\ndecay_steps: 8", "", ["warmup_steps 8", "steps, 10"]),
        ("batch_size: 1", "", ["batch_size 1", "at least 2"]),
        ("- a list", "", ["a mapping", "['a list']"]),
        ("steps: [", "", ["YAML", "line 1"]),
    ],
)
def test_a_mistake_is_refused_with_its_place_and_what_was_expected(tmp_path, text, place, words):
    with pytest.raises(ValueError, match="recipe") as refusal:
        load_recipe(written(tmp_path, text))
    assert str(refusal.value).startswith(f"recipe.yaml{place}: ")
    assert all(word in str(refusal.value) for word in words), str(refusal.value)


def test_an_empty_recipe_is_the_default_one(tmp_path):
    assert load_recipe(written(tmp_path, "# nothing\n")) == Recipe()


def test_no_recipe_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_recipe(tmp_path / "nowhere.yaml")


def test_the_rate_rises_stays_and_falls():
    recipe = Recipe(steps=100, warmup_steps=10, decay_steps=20, learning_rate=1.0)
    assert recipe.rate(0) == pytest.approx(0.1)
    assert recipe.rate(9) == recipe.rate(50) == recipe.rate(80) == 1.0
    assert recipe.rate(90) == pytest.approx(0.5)
    assert recipe.rate(99) == pytest.approx(0.05)
