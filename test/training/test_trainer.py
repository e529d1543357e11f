# SPDX-License-Identifier: Apache-2.0
"""The loop: it learns, resumes where it stood, and writes weights that load."""

import argparse
import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tracker_ros.checkpoints import read_weights
from tracker_ros.registry import create_tracker, list_models
from tracker_ros.training.recipe import Source, load_recipe
from tracker_ros.training.sources import SampleStream, pick_source
from tracker_ros.training.tasks import open_task
from tracker_ros.training.tasks.pair import OSTrackTask
from tracker_ros.training.trainer import (
    Trainer,
    plot_curve,
    read_log,
    train_command,
    write_card,
)

from .conftest import CPU, RECIPES, SHORT

PAIRS = RECIPES["pairs"]
SHORT_RECIPE = """\
steps: 2
batch_size: 2
warmup_steps: 1
precision: fp32
loader_workers: 0
validate_every: 2
validation_samples: 4
"""


def test_a_resumed_run_ends_where_an_unbroken_one_ends(runs):
    assert runs.resumed_at == 2
    resumed = runs.resumed.average.state_dict()
    for name, value in runs.whole.average.state_dict().items():
        assert torch.allclose(value.float(), resumed[name].float(), atol=1e-6), name
    unit, size = runs.whole.task.unit, runs.whole.recipe.batch_size
    lines = read_log(runs.resumed.folder / "log.jsonl")
    assert [(line["step"], line[unit]) for line in lines] == [(2, 2 * size), (4, 4 * size)]


def test_the_weights_of_a_run_start_another_and_have_a_card(runs):
    weights = write_card(runs.whole, Path("micro.yaml"))
    recipe = replace(runs.whole.recipe, start_from=str(weights))
    begun = open_task(recipe).network.state_dict()
    assert all(torch.equal(begun[name], value) for name, value in read_weights(weights).items())
    card = json.loads(weights.with_suffix(".json").read_text())
    assert set(card["validation"]) == set(runs.whole.task.figure_names)
    assert card["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert card[runs.whole.task.unit] == runs.whole.samples_seen
    assert card["parameters"] == sum(p.numel() for p in runs.whole.network.parameters())


def test_what_is_saved_is_the_moving_average_of_the_weights(tmp_path):
    recipe = replace(PAIRS, steps=3, decay_steps=0, average_decay=0.2)
    trainer, means = Trainer(recipe, tmp_path, CPU), {}
    for name, value in trainer.network.state_dict().items():
        means[name] = value.clone()
    for step in range(recipe.steps):
        trainer.recipe = replace(recipe, steps=step + 1)
        trainer.run()
        # The first steps are forgotten faster than the recipe's decay says.
        decay = min(0.2, (1 + step) / (10 + step))
        for name, value in trainer.network.named_parameters():
            means[name].lerp_(value.detach(), 1 - decay)
    for name, value in trainer.average.named_parameters():
        torch.testing.assert_close(value, means[name])
    counter = "box_head.conv1_ctr.1.num_batches_tracked"
    assert trainer.average.state_dict()[counter] == 2  # as measured last


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    Trainer(PAIRS, tmp_path, CPU).save()
    with pytest.raises(ValueError, match=r"checkpoint\.pt .* mast_micro"):
        Trainer(RECIPES["runs"], tmp_path, CPU)


def test_the_command_writes_weights_card_and_curve(tmp_path, monkeypatch):
    monkeypatch.setattr("tracker_ros.training.trainer.plot_curve", plot_curve)
    recipe = tmp_path / "short.yaml"
    recipe.write_text(SHORT_RECIPE + "decay_steps: 1\n")
    out = tmp_path / "run"
    assert train_command(argparse.Namespace(recipe=recipe, out=out, device="cpu")) == 0
    weights = out / "ostrack_tiny.safetensors"
    card = json.loads((out / "ostrack_tiny.json").read_text())
    assert card["pairs"] == 4
    assert card["recipe"] == "short.yaml"
    assert (out / "curve.png").read_bytes()[:4] == b"\x89PNG"
    create_tracker("ostrack_tiny", device="cpu", backend="torch", weights=str(weights))


@pytest.mark.slow
def test_two_processes_train_one_network(tmp_path):
    recipe = tmp_path / "short.yaml"
    recipe.write_text(SHORT_RECIPE.replace("steps: 2", "steps: 1", 1) + "decay_steps: 0\n")
    out = tmp_path / "run"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "-m", "tracker_ros.cli.main"]
    command += ["train", str(recipe), "--out", str(out), "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    card = json.loads((out / "ostrack_tiny.json").read_text())
    assert card["pairs"] == 2 * 2
    # Alone, the first process would have seen the same pairs; the second's gradients came in.
    together = torch.load(out / "checkpoint.pt", weights_only=True)["network"]
    alone = Trainer(load_recipe(recipe), tmp_path / "alone", CPU)
    alone.run()
    name = "backbone.blocks.0.attn.qkv.weight"
    assert (together[name] - alone.network.state_dict()[name]).abs().mean() > 1e-5
    assert [line["step"] for line in read_log(out / "log.jsonl")] == [1]


@pytest.mark.parametrize("name", list_models("*_tiny"))
def test_a_task_trains_every_model_that_is_embedded(name):
    assert open_task(replace(SHORT, model=name)).groups()


def test_an_unknown_model_is_refused_and_the_nearest_named(tmp_path):
    with pytest.raises(ValueError, match="'ostrack_tinny'.*did you mean ostrack_tiny"):
        Trainer(replace(SHORT, model="ostrack_tinny"), tmp_path, CPU)
    with pytest.raises(ValueError, match="'xyz'.*known: .*trsiam_tiny"):
        Trainer(replace(SHORT, model="xyz"), tmp_path, CPU)


def test_batches_depend_on_seed_step_and_rank_alone():
    stream = SampleStream(PAIRS, OSTrackTask.open_source, 0)
    from_start = list(stream)
    from_two = list(SampleStream(PAIRS, OSTrackTask.open_source, 2))
    other_rank = next(iter(SampleStream(PAIRS, OSTrackTask.open_source, 0, rank=1, world_size=2)))
    assert len(from_start) == 4
    assert torch.equal(from_start[2].search, from_two[0].search)
    assert not torch.equal(from_start[0].search, other_rank.search)


def test_sources_are_drawn_by_weight():
    recipe = replace(SHORT, sources=(Source(weight=1.0), Source(weight=3.0)))
    picks = [pick_source(recipe, step) for step in range(400)]
    assert 0.68 < sum(picks) / 400 < 0.82
    assert picks == [pick_source(recipe, step) for step in range(400)]
