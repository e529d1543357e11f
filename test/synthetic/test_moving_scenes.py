# SPDX-License-Identifier: Apache-2.0
"""Runs of frames: truth, coherent motion, determinism."""

from dataclasses import replace

import pytest
import torch

from tracker_ros.synthetic.moving_scenes import FrameConfig, MovingScenes

from .conftest import NO_CHANGE

SIDE = 64
SMALL = FrameConfig(size=SIDE, pan=1.5, speed=2.0)
STILL = replace(
    SMALL,
    pan=0.0,
    speed=0.0,
    turn=0.0,
    growth=0.0,
    bending=0.0,
    photometric=NO_CHANGE,
)


def test_shapes_ranges_and_types(bank):
    batch = MovingScenes(bank, config=replace(SMALL, frames=3)).batch(5, 1)
    assert batch.images.shape == (5, 3, 3, SIDE, SIDE)
    assert batch.images.dtype == torch.float32
    assert 0 <= batch.images.min() <= batch.images.max() <= 1
    assert batch.labels.shape == (5, 3, SIDE, SIDE)
    assert batch.labels.dtype == torch.uint8
    assert batch.labels.unique().tolist() == [0, 1, 2, 3]


def test_a_seed_repeats_and_another_differs(bank):
    scenes = MovingScenes(bank, config=SMALL)
    first, again, other = scenes.batch(2, 5), scenes.batch(2, 5), scenes.batch(2, 6)
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.images, other.images)


def test_without_motion_and_flicker_all_frames_are_alike(bank):
    batch = MovingScenes(bank, config=STILL).batch(4, 3)
    assert torch.allclose(batch.images, batch.images[:, :1].expand_as(batch.images), atol=1e-5)
    assert torch.equal(batch.labels, batch.labels[:, :1].expand_as(batch.labels))


@pytest.mark.parametrize("what", ["pan", "speed", "turn", "growth", "bending"])
def test_every_kind_of_motion_moves_the_labels(bank, what):
    fast = {"pan": 3.0, "speed": 3.0, "turn": 0.2, "growth": 0.1, "bending": 3.0}[what]
    batch = MovingScenes(bank, config=replace(STILL, **{what: fast})).batch(4, 3)
    assert not torch.equal(batch.labels[:, 0], batch.labels[:, 3])


def test_light_flickers_between_frames_as_configured(bank):
    flicker = replace(STILL, photometric=replace(NO_CHANGE, gain=0.1))
    images = MovingScenes(bank, config=flicker).batch(6, 3).images
    level = images.mean((2, 3, 4))
    assert (level / level[:, :1] - 1).abs().max() > 0.05


def test_labels_are_where_objects_are_drawn(bank):
    """Painting the cut-outs in one colour shows the labels in the image."""
    scenes = MovingScenes(bank, config=replace(STILL, light=0.0, objects=1, object_fraction=1.0))
    # Not in place: the bank's arrays are every test's.
    scenes.tiles = torch.zeros_like(scenes.tiles)
    scenes.cutouts = scenes.cutouts.clone()
    scenes.cutouts[..., :3] = 255
    batch = scenes.batch(4, 2)
    bright = batch.images.mean(2) > 0.5
    assert bright.any()
    assert (bright == (batch.labels == 1)).float().mean() > 0.995


def test_consecutive_frames_are_nearer_than_distant_ones(bank):
    moving = replace(STILL, pan=2.0, speed=2.0, speed_spread=0.0, frames=4)
    images = MovingScenes(bank, config=moving).batch(8, 4).images
    near = (images[:, 1] - images[:, 0]).abs().mean((1, 2, 3))
    far = (images[:, 3] - images[:, 0]).abs().mean((1, 2, 3))
    assert (far > near).all()
