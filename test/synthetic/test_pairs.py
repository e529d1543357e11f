# SPDX-License-Identifier: Apache-2.0
"""Training pairs: truth, variety, determinism."""

from dataclasses import replace

import pytest
import torch

from tracker_ros.synthetic.samples import PairGenerator
from tracker_ros.synthetic.textures import TextureBank


@pytest.fixture
def generator(bank, plain):
    """Make a generator of unvaried pairs but for changes."""

    def make(**changes):
        return PairGenerator(bank, 64, 128, config=replace(plain, **changes))

    return make


def test_a_seed_repeats_and_another_differs(bank):
    pairs = PairGenerator(bank, 64, 128)
    first, again, other = pairs.batch(8, 5), pairs.batch(8, 5), pairs.batch(8, 6)
    assert torch.equal(first.search, again.search)
    assert torch.equal(first.boxes, again.boxes)
    assert not torch.equal(first.search, other.search)


def test_shapes_ranges_and_types(bank):
    batch = PairGenerator(bank, 64, 128).batch(16, 1)
    assert batch.template.shape == (16, 3, 64, 64)
    assert batch.search.shape == (16, 3, 128, 128)
    assert batch.boxes.shape == (16, 4)
    assert batch.present.dtype == torch.bool
    for image in (batch.template, batch.search):
        assert image.dtype == torch.float32
        assert 0 <= image.min() <= image.max() <= 1


@pytest.mark.parametrize("picture_fraction", [0.0, 1.0])
def test_the_box_shows_what_the_template_shows(generator, picture_fraction):
    """Without variation the search crop at the box is the template's middle, resampled."""
    pairs = generator(
        picture_fraction=picture_fraction, scale_jitter=0.0, uniform_centre_fraction=0.0
    )
    batch = pairs.batch(24, 2)
    errors = []
    for i in torch.where(batch.present)[0].tolist():
        x, y, w, h = (batch.boxes[i] * 128).tolist()
        cx, cy = round(x + w / 2), round(y + h / 2)
        reach = int(min(w, h) / 4)
        if not (reach < min(cx, cy) and max(cx, cy) < 128 - reach) or reach < 4:
            continue
        seen = batch.search[i, :, cy - reach : cy + reach, cx - reach : cx + reach]
        known = batch.template[i, :, 32 - reach : 32 + reach, 32 - reach : 32 + reach]
        elsewhere = batch.template[
            (i + 1) % 24, :, 32 - reach : 32 + reach, 32 - reach : 32 + reach
        ]
        errors.append(((seen - known).abs().mean().item(), (seen - elsewhere).abs().mean().item()))
    own, others = torch.tensor(errors).mean(0)
    assert len(errors) > 10
    assert own < 0.5 * others


def test_the_target_has_the_wanted_size_and_place(generator):
    pairs = generator(
        picture_fraction=0.5,
        scale_jitter=0.0,
        centre_jitter=0.0,
        uniform_centre_fraction=0.0,
    )
    batch = pairs.batch(32, 4)
    boxes = batch.boxes[batch.present] * 128
    side = boxes[:, 2:].prod(1).sqrt()
    centre = boxes[:, :2] + boxes[:, 2:] / 2
    assert (side - 32).abs().mean() < 2
    assert (centre - 64).abs().max() < 4


def test_absent_targets_are_marked_and_missing(generator):
    batch = generator(absent_fraction=1.0, picture_fraction=0.0).batch(16, 1)
    assert not batch.present.any()
    shown = generator(absent_fraction=0.0, picture_fraction=0.0).batch(16, 1)
    assert shown.present.float().mean() > 0.8
    assert (batch.search - shown.search).abs().flatten(1).amax(1).min() > 0.05


def test_borders_are_black_and_clip_the_box(generator):
    batch = generator(border_fraction=1.0).batch(32, 9)
    black = (batch.search == 0).all(1)
    bordered = black[:, :, 0].all(1) | black[:, :, -1].all(1)
    bordered |= black[:, 0].all(1) | black[:, -1].all(1)
    assert bordered.float().mean() > 0.4
    for i in torch.where(batch.present)[0].tolist():
        x, y, w, h = (batch.boxes[i] * 128).round().int().tolist()
        inside = black[i, max(y, 0) : y + h, max(x, 0) : x + w]
        assert inside.float().mean() < 0.2


def test_a_bank_of_wrong_shape_is_refused(bank):
    with pytest.raises(ValueError, match="labels has shape"):
        TextureBank(bank.tiles, bank.labels[:, ::2], bank.cutouts)


def test_a_bank_survives_the_file(bank, tmp_path):
    bank.save(tmp_path / "bank.npz")
    again = TextureBank.load(tmp_path / "bank.npz")
    assert (again.cutouts == bank.cutouts).all()
    assert (again.labels == bank.labels).all()
