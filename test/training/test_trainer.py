# SPDX-License-Identifier: Apache-2.0
"""The loop: it learns, resumes where it stood, and writes weights that load."""

import argparse
import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from tracker_ros.crops import normalize_tensor
from tracker_ros.model_cards import embedded_file
from tracker_ros.models.one_stream.config import OSTRACK_TINY
from tracker_ros.models.one_stream.grm import Division
from tracker_ros.models.one_stream.ostrack import OSTrackNetwork
from tracker_ros.registry import create_tracker
from tracker_ros.training.card import read_log
from tracker_ros.training.initialisation import begin_from_scratch, begin_from_weights
from tracker_ros.training.recipe import Recipe, Source, load_recipe
from tracker_ros.training.sources import SampleStream, open_pairs, pick_source
from tracker_ros.training.tasks.families import open_task
from tracker_ros.training.tasks.pair import pair_losses
from tracker_ros.training.trainer import Trainer, train_command

RECIPE = Recipe(
    steps=4,
    batch_size=2,
    warmup_steps=1,
    decay_steps=1,
    precision="fp32",
    loader_workers=0,
    validate_every=2,
    validation_samples=64,
)
SHORT_RECIPE = """\
steps: 2
batch_size: 2
warmup_steps: 1
precision: fp32
loader_workers: 0
validate_every: 2
validation_samples: 64
"""
CPU = torch.device("cpu")


def test_a_resumed_run_ends_where_an_unbroken_one_ends(tmp_path):
    whole = Trainer(RECIPE, tmp_path / "whole", CPU).run()
    first = Trainer(RECIPE, tmp_path / "broken", CPU)
    first.recipe = replace(RECIPE, steps=2, decay_steps=0)
    first.run()
    torch.manual_seed(123)  # a new process draws other numbers
    second = Trainer(RECIPE, tmp_path / "broken", CPU)
    assert second.step == 2
    resumed = second.run()
    for name, value in whole.state_dict().items():
        assert torch.allclose(value.float(), resumed.state_dict()[name].float(), atol=1e-6), name
    assert [line["step"] for line in read_log(tmp_path / "broken" / "log.jsonl")] == [2, 4]


def test_the_command_writes_weights_card_and_curve(tmp_path):
    recipe = tmp_path / "short.yaml"
    recipe.write_text(SHORT_RECIPE + "decay_steps: 1\n")
    out = tmp_path / "run"
    assert train_command(argparse.Namespace(recipe=recipe, out=out, device="cpu")) == 0
    weights = out / "ostrack_tiny.safetensors"
    card = json.loads((out / "ostrack_tiny.json").read_text())
    assert card["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert card["pairs"] == 4
    assert (out / "curve.png").read_bytes()[:4] == b"\x89PNG"
    create_tracker("ostrack_tiny", device="cpu", weights=str(weights))


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


def test_an_unknown_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="ostrack_giant"):
        Trainer(replace(RECIPE, model="ostrack_giant"), tmp_path, CPU)


def test_a_few_steps_on_one_batch_lower_its_loss():
    torch.manual_seed(0)
    network = OSTrackNetwork(OSTRACK_TINY)
    begin_from_scratch(network, 0.05)
    batch = next(iter(SampleStream(replace(RECIPE, batch_size=4), open_pairs, 0)))
    optimiser = torch.optim.AdamW(network.parameters(), 1e-3)
    losses = []
    for _ in range(12):
        out = network(
            normalize_tensor(batch.template),
            normalize_tensor(batch.search),
            template_boxes=batch.template_boxes,
        )
        total = pair_losses(out, batch.boxes, batch.present)["total"]
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        losses.append(total.item())
    assert losses[-1] < 0.7 * losses[0]


def test_attention_starts_as_matching():
    network = OSTrackNetwork(OSTRACK_TINY)
    begin_from_scratch(network, 0.05)
    weight = network.backbone.blocks[0].attn.qkv.weight
    width = OSTRACK_TINY.embed_dim
    assert torch.equal(weight[:width], weight[width : 2 * width])
    assert not torch.equal(weight[:width], weight[2 * width :])


def test_template_tokens_start_marked():
    network = OSTrackNetwork(OSTRACK_TINY)
    begin_from_scratch(network, 0.05)
    inside, outside = network.backbone.target_mark
    assert min((inside - outside).norm(), inside.norm(), outside.norm()) > 3


def test_batches_depend_on_seed_step_and_rank_alone():
    stream = SampleStream(RECIPE, open_pairs, 0)
    from_start = list(stream)
    from_two = list(SampleStream(RECIPE, open_pairs, 2))
    other_rank = next(iter(SampleStream(RECIPE, open_pairs, 0, rank=1, world_size=2)))
    assert len(from_start) == 4
    assert torch.equal(from_start[2].search, from_two[0].search)
    assert not torch.equal(from_start[0].search, other_rank.search)


def test_sources_are_drawn_by_weight():
    recipe = replace(RECIPE, sources=(Source(weight=1.0), Source(weight=3.0)))
    picks = [pick_source(recipe, step) for step in range(400)]
    assert 0.68 < sum(picks) / 400 < 0.82
    assert picks == [pick_source(recipe, step) for step in range(400)]


GRM_RECIPE = replace(RECIPE, model="grm_tiny", batch_size=4)


def test_grm_starts_from_ostrack_s_weights_with_its_divisions_open():
    from safetensors.torch import load_file

    task = open_task(replace(GRM_RECIPE, start_from="ostrack_tiny"))
    begun = task.network.state_dict()
    for name, value in load_file(embedded_file("ostrack_tiny.safetensors")).items():
        assert torch.equal(begun[name], value.float()), name
    batch = next(iter(SampleStream(GRM_RECIPE, open_pairs, 0)))
    with torch.no_grad():
        backbone = task.network.eval().backbone
        _, divisions = backbone(
            backbone.embed_template(normalize_tensor(batch.template), batch.template_boxes),
            backbone.embed_search(normalize_tensor(batch.search)),
        )
    assert len(divisions) == 3
    for division in divisions:
        assert isinstance(division, Division)
        assert division.category[..., 1].mean() > 0.9


def test_weights_that_lack_a_block_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    known = load_file(embedded_file("ostrack_tiny.safetensors"))
    lacking = {k: v for k, v in known.items() if "blocks.2.mlp.fc1" not in k}
    save_file(lacking, tmp_path / "lacking.safetensors")
    network = open_task(GRM_RECIPE).network
    with pytest.raises(ValueError, match=r"lacks \['backbone.blocks.2.mlp.fc1"):
        begin_from_weights(network, tmp_path / "lacking.safetensors")


def test_grm_s_divisions_learn():
    task = open_task(GRM_RECIPE)
    batch = next(iter(SampleStream(GRM_RECIPE, open_pairs, 0)))
    before = {k: v.clone() for k, v in task.network.state_dict().items() if "divide" in k}
    optimiser = torch.optim.AdamW(task.groups(), 1e-3)
    torch.manual_seed(0)
    losses = []
    for step in range(12):
        total = task.train()(batch, step)["total"]
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        losses.append(total.item())
    assert losses[-1] < 0.8 * losses[0]
    after = task.network.state_dict()
    assert all(not torch.equal(value, after[name]) for name, value in before.items())


def test_the_share_of_tokens_that_meet_the_template_is_held():
    batch = next(iter(SampleStream(GRM_RECIPE, open_pairs, 0)))
    free = open_task(GRM_RECIPE).train()(batch, 0)
    torch.manual_seed(0)
    held = open_task(replace(GRM_RECIPE, meeting_share=0.4)).train()(batch, 0)
    assert "share" not in free
    # Three divisions, each of which opens for e / (1 + e) of the tokens at first.
    assert held["share"].item() == pytest.approx(3 * (0.731 - 0.4) ** 2, abs=0.05)
    of_boxes = 2 * held["giou"] + 5 * held["l1"] + held["focal"]
    assert held["total"].item() == pytest.approx((of_boxes + held["share"]).item(), abs=1e-4)
