# SPDX-License-Identifier: Apache-2.0
"""Training clips: truth, roles of the crops, determinism."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tracker_ros.synthetic.samples import ClipConfig, ClipGenerator
from tracker_ros.synthetic.textures import TextureBank

SIDE = 128
STILL = ClipConfig(train_centre=0.0, train_scale=0.0, test_centre=0.0, test_scale=0.0)


@pytest.fixture
def generator(bank, plain):
    """Make a generator of unvaried scenes but for changes."""

    def make(clips=STILL, **changes):
        return ClipGenerator(bank, SIDE, scenes=replace(plain, **changes), config=clips)

    return make


def test_a_seed_repeats_and_another_differs(bank):
    clips = ClipGenerator(bank, SIDE)
    first, again, other = clips.batch(4, 5), clips.batch(4, 5), clips.batch(4, 6)
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.boxes, again.boxes)
    assert torch.equal(first.present, again.present)
    assert not torch.equal(first.images, other.images)


def test_shapes_ranges_and_types(bank):
    config = ClipConfig(train_crops=3, test_crops=1)
    batch = ClipGenerator(bank, SIDE, config=config).batch(6, 1)
    assert batch.images.shape == (6, 4, 3, SIDE, SIDE)
    assert batch.boxes.shape == (6, 4, 4)
    assert batch.present.shape == (6, 4)
    assert batch.train_crops == 3
    assert batch.images.dtype == torch.float32
    assert 0 <= batch.images.min() <= batch.images.max() <= 1


def test_an_unvaried_target_lies_in_the_middle_with_the_wanted_size(generator):
    batch = generator(picture_fraction=0.5).batch(12, 4)
    boxes = batch.boxes[batch.present]
    assert len(boxes) == 48
    centre = boxes[:, :2] + boxes[:, 2:] / 2
    assert (centre - SIDE / 2).abs().max() < 2
    assert (boxes[:, 2:].prod(1).sqrt() - SIDE / 4).abs().mean() < 2


@pytest.mark.parametrize("picture_fraction", [0.0, 1.0])
def test_every_crop_shows_the_target_in_its_box(generator, picture_fraction):
    moving = replace(STILL, train_centre=1.0, test_centre=1.2)
    batch = generator(moving, picture_fraction=picture_fraction).batch(12, 2)
    reach = 5

    def middle(clip: int, crop: int) -> torch.Tensor:
        x, y, w, h = batch.boxes[clip, crop].tolist()
        cx, cy = round(x + w / 2), round(y + h / 2)
        return batch.images[clip, crop, :, cy - reach : cy + reach, cx - reach : cx + reach]

    own, others = [], []
    for clip in range(12):
        for crop in range(1, 4):
            own.append((middle(clip, crop) - middle(clip, 0)).abs().mean())
            others.append((middle(clip, crop) - middle((clip + 1) % 12, 0)).abs().mean())
    assert torch.stack(own).mean() < 0.5 * torch.stack(others).mean()
    spread = (batch.boxes[..., :2] + batch.boxes[..., 2:] / 2 - SIDE / 2).abs().amax((0, 2))
    assert spread[0] < 18  # the first lies nearer to the middle
    assert spread[1:].min() > 20


def test_the_first_crop_is_never_occluded(generator):
    clear = generator(occluder_fraction=0.0).batch(8, 3)
    hidden = generator(occluder_fraction=1.0).batch(8, 3)
    assert torch.equal(clear.images[:, 0], hidden.images[:, 0])
    assert not torch.equal(clear.images[:, 1], hidden.images[:, 1])


def test_the_target_is_seen_in_every_crop_to_learn_from(generator):
    far = replace(STILL, train_centre=4.0)  # mostly out of view
    batch = generator(far).batch(16, 1)
    assert batch.present[:, :2].all()
    repeated = (batch.images[:, 1] == batch.images[:, 0]).flatten(1).all(1)
    assert repeated.any()
    assert torch.equal(batch.boxes[repeated, 1], batch.boxes[repeated, 0])


def test_absent_targets_are_missing_from_crops_to_search_alone(generator):
    batch = generator(absent_fraction=1.0, picture_fraction=0.0).batch(8, 1)
    shown = generator(absent_fraction=0.0, picture_fraction=0.0).batch(8, 1)
    assert not batch.present[:, 2:].any()
    assert batch.present[:, :2].all()
    assert torch.equal(batch.images[:, :2], shown.images[:, :2])
    assert (batch.images[:, 2] - shown.images[:, 2]).abs().flatten(1).amax(1).min() > 0.05


def test_distractors_stay_with_a_target(bank, plain):
    """With objects of one grey each before black, a clip shows the greys of three objects."""
    greys = np.arange(1, 17, dtype=np.uint8) * 15
    cutouts = bank.cutouts.copy()
    cutouts[..., :3] = greys[: len(cutouts), None, None, None]
    material = TextureBank(np.zeros_like(bank.tiles), np.zeros_like(bank.labels), cutouts)
    scenes = replace(plain, distractors=2, distractor_fraction=1.0, look_alike_fraction=0.0)
    images = ClipGenerator(material, SIDE, scenes=scenes, config=STILL).batch(6, 1).images
    levels = (images[:, :, 0] * 255).flatten(1)
    counts = torch.stack([((levels - grey).abs() < 0.5).sum(1) for grey in greys.tolist()], 1)
    objects = (counts > 60).sum(1)
    assert objects.min() > 1
    assert objects.max() == 3
    assert (counts > 60).any(0).sum() > 3  # other clips have others


def test_borders_repeat_the_edge(generator):
    batch = generator(border_fraction=1.0).batch(16, 9)
    plain = generator(border_fraction=0.0).batch(16, 9)
    changed = (batch.images[:, 0] != plain.images[:, 0]).flatten(1).any(1)
    assert changed.float().mean() > 0.4
    flat = (batch.images[:, 0, :, :, :2].diff(dim=-1) == 0).all(1).all(-1).all(-1)  # left
    flat |= (batch.images[:, 0, :, :, -2:].diff(dim=-1) == 0).all(1).all(-1).all(-1)
    flat |= (batch.images[:, 0, :, :2].diff(dim=-2) == 0).all(1).all(-1).all(-1)
    flat |= (batch.images[:, 0, :, -2:].diff(dim=-2) == 0).all(1).all(-1).all(-1)
    assert flat[changed].float().mean() > 0.8
    assert not (batch.images == 0).all(2).any()
