# SPDX-License-Identifier: Apache-2.0
"""Training of the two-stream tracker: the clips, the frozen body, replays and starting values."""

from dataclasses import replace
from itertools import islice

import pytest
import torch

from tracker_ros.checkpoints import write_weights
from tracker_ros.models.two_stream.network import TwoStreamNetwork
from tracker_ros.synthetic.crops import PairConfig
from tracker_ros.synthetic.samples import ClipConfig, TrackGenerator
from tracker_ros.synthetic.textures import procedural_bank
from tracker_ros.training.recipe import Source
from tracker_ros.training.sources import SampleStream
from tracker_ros.training.tasks import open_task

from .conftest import CPU, SHORT

RECIPE = replace(SHORT, model="two_stream_micro", batch_size=2)


def batch_of(task):
    """A batch of clips for a task."""
    return task.open_source(Source(), RECIPE, CPU).batch(2, 1)


def body_gradients(task):
    """Gradients of the body's parameters, those that there are."""
    return [p.grad for p in task.network.body.parameters() if p.grad is not None]


def test_the_first_crop_shows_the_target_in_the_middle():
    batch = TrackGenerator(procedural_bank(1), 64).batch(4, 2)
    assert batch.images.shape == (4, 1 + ClipConfig().test_crops, 3, 64, 64)
    assert batch.present[:, 0].all()
    centres = batch.boxes[:, 0, :2] + batch.boxes[:, 0, 2:] / 2
    assert (centres - 32).abs().max() < 6


def test_shapes_change_more_if_targets_are_stretched():
    def spread(fraction):
        scenes = PairConfig(stretched_fraction=fraction, border_fraction=0.0)
        batch = TrackGenerator(procedural_bank(1), 64, scenes=scenes).batch(24, 3)
        aspect = torch.log(batch.boxes[..., 2] / batch.boxes[..., 3])
        change = (aspect[:, 1:] - aspect[:, :1])[batch.present[:, 1:]]
        return change[change.isfinite()].std()

    assert spread(1.0) > 1.3 * spread(0.0)


def test_a_distant_scene_has_lost_its_detail():
    def detail(fraction):
        scenes = PairConfig(photometric=replace(PairConfig().photometric, noise_limit=0.0,
                                                distant_fraction=fraction))  # fmt: skip
        images = TrackGenerator(procedural_bank(1), 64, scenes=scenes).batch(4, 5).images
        return images.diff(dim=-1).abs().mean()

    assert detail(1.0) < 0.7 * detail(0.0)


def test_a_frozen_body_learns_nothing_and_sees_the_same():
    task = open_task(replace(RECIPE, frozen_steps=1))
    batch = batch_of(task)
    images, *_ = task._on_device(batch)
    with torch.no_grad():
        plain = task.raw_features(task.network, images, 1)
    assert torch.allclose(task.raw_features(task.network, images, 0), plain, atol=1e-4)
    task(batch, 0)["total"].backward()
    assert body_gradients(task) == []
    task(batch, 1)["total"].backward()
    assert all(gradient.abs().max() > 0 for gradient in body_gradients(task))


def test_steps_between_draws_use_kept_features():
    recipe = replace(RECIPE, frozen_steps=4, steps=6, replays=2)
    task = open_task(recipe)
    drawn = list(islice(SampleStream(recipe, task.open_source, 0), 6))
    assert [batch is None for batch in drawn] == [False, True, True, False, False, False]
    task(drawn[0], 0)
    assert torch.isfinite(task(None, 1)["total"])
    assert SampleStream(recipe, task.open_source, 2).__iter__().__next__() is not None


def test_a_few_steps_on_one_batch_lower_its_loss():
    torch.manual_seed(0)
    task = open_task(replace(RECIPE, frozen_steps=99))
    batch, losses = batch_of(task), []
    optimiser = torch.optim.AdamW(task.groups(), lr=3e-3)
    for _ in range(25):
        torch.manual_seed(1)
        loss = task(batch, 0)["total"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]


def test_a_run_starts_from_a_body_or_from_a_whole_network(tmp_path):
    body = TwoStreamNetwork(open_task(RECIPE).network.config)
    write_weights(body.body.state_dict(), tmp_path / "body.safetensors")
    write_weights(body.state_dict(), tmp_path / "whole.safetensors")
    weight = body.body.stem.weight
    for name in ("body", "whole"):
        started = open_task(replace(RECIPE, start_from=str(tmp_path / f"{name}.safetensors")))
        assert torch.equal(started.network.body.stem.weight, weight)
    assert torch.equal(started.network.embed.weight, body.embed.weight)
    with pytest.raises(FileNotFoundError):
        open_task(replace(RECIPE, start_from=str(tmp_path / "none.safetensors")))
