# SPDX-License-Identifier: Apache-2.0
"""MAST notices that its object has gone, though texture goes on as its mask."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from tracker_ros import create_tracker
from tracker_ros.models.mast.appearance import Appearance, Presence
from tracker_ros.tracker import Verdict

HEIGHT, WIDTH = 152, 200
FRAMES, GONE, LATE = 11, 6, 2


def texture(rng, tile, low, high, height, width):
    small = rng.integers(low, high, (height // tile + 1, width // tile + 1, 3)).astype(np.uint8)
    size = small.shape[1] * tile, small.shape[0] * tile
    return cv2.resize(small, size, interpolation=cv2.INTER_NEAREST)[:height, :width]


def scene(grade, rng):
    """Ground and object, ever harder to tell apart; the last one is seen by a camera that pans."""
    ground = texture(rng, 8, 0, 255, HEIGHT, 2 * WIDTH)
    if grade == "plain":
        ground[:] = 110
    if grade == "flat object":
        face = np.full((48, 40, 3), (220, 40, 40), np.uint8)
    else:
        face = texture(rng, 8 if grade == "same texture" else 12, 0, 255, 48, 40)
    return ground, face


@pytest.fixture(scope="module")
def mast():
    return create_tracker("mast_tiny", device="cpu", backend="torch")


@pytest.mark.parametrize("grade", ["plain", "flat object", "same texture", "panning"])
def test_an_object_that_vanishes_is_not_found(mast, grade):
    ground, face = scene(grade, np.random.default_rng(2))
    verdicts = []
    for index in range(FRAMES):
        shift = 2 * index if grade == "panning" else 0
        image = ground[:, shift : shift + WIDTH].copy()
        box = (60 + 2 * index, 50, 40, 48)
        if index < GONE:
            image[50:98, box[0] : box[0] + 40] = face
        if index == 0:
            mast.initialize(image, box)
        else:
            verdicts.append(mast.track(image).verdict)
    assert verdicts[: GONE - 1] == [Verdict.NORMAL] * (GONE - 1)
    late = verdicts[GONE - 1 + LATE :]
    assert late == [Verdict.NOT_FOUND] * len(late)


def test_the_share_counts_cells_that_look_like_the_object():
    cells = torch.eye(4)
    first = Appearance(cells, torch.tensor([True, True, False, False]))
    mixed = Appearance(cells, torch.tensor([True, False, True, False]))
    assert mixed.agreement(first) == 0.5
    assert first.agreement(first) == 1.0
    assert Appearance(cells, torch.zeros(4, dtype=torch.bool)).agreement(first) == 0.0
    everything = Appearance(cells, torch.ones(4, dtype=torch.bool))
    assert mixed.agreement(everything) == 1.0


def shown(alike: int, other: int) -> Appearance:
    """A mask of so many cells that look like the object, the first half of a frame, or not."""
    target = torch.zeros(80, dtype=torch.bool)
    target[:alike] = True
    target[40 : 40 + other] = True
    return Appearance(torch.eye(80), target)


@pytest.mark.parametrize(
    ("masks", "there"),
    [
        ([(36, 4), (38, 2), (14, 26)], [True, True, False]),
        ([(36, 4), (30, 10), (26, 14), (20, 20), (18, 22)], [True] * 5),
        ([(9, 31)], [False]),
        ([(36, 4), (2, 0), (1, 1), (36, 4)], [True, False, False, True]),
        ([(3, 0), (2, 1), (3, 0)], [True] * 3),
    ],
    ids=["sudden", "gradual", "unlike", "remnant", "small"],
)
def test_presence_is_judged_by_what_is_usual(masks, there):
    presence = Presence(shown(40, 0))
    assert [presence.judge(shown(*mask))[0] for mask in masks] == there
