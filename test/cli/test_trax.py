# SPDX-License-Identifier: Apache-2.0
"""A tracker served by TraX, asked by the client that the VOT toolkit uses."""

import subprocess
import sys

import cv2
import numpy as np
import pytest
from trax.client import Client
from trax.image import FileImage
from trax.region import Mask, Rectangle, Region

from tracker_ros.cli.trax import mask_on_image, mask_region
from tracker_ros.geometry import iou
from tracker_ros.masks import placed_mask

FRAMES = 4
SIZE = (96, 128)


def place(index, target):
    """Return the box of one of two squares in a frame; one goes right, the other one up."""
    x, y = (20.0 + 3 * index, 30.0) if target == 0 else (84.0, 50.0 - 2 * index)
    return (x, y, 28.0, 28.0) if target == 0 else (x, y, 24.0, 24.0)


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frames")
    generator = np.random.default_rng(3)
    ground = generator.integers(60, 110, (*SIZE, 3), np.uint8)
    patches = [np.full((28, 28, 3), (30, 40, 230)), np.full((24, 24, 3), (220, 60, 30))]
    for index in range(FRAMES):
        image = ground.copy()
        for target, patch in enumerate(patches):
            x, y, w, h = (int(value) for value in place(index, target))
            image[y : y + h, x : x + w] = patch
        cv2.imwrite(str(folder / f"{index}.png"), image)
    return folder


def mask_of(index, target):
    x, y, w, h = (int(value) for value in place(index, target))
    return Mask.create(np.ones((h, w), np.uint8), x, y)


@pytest.fixture(scope="module")
def client():
    command = [sys.executable, "-m", "tracker_ros.cli.main", "trax", "--model", "mast_tiny"]
    pipe = subprocess.PIPE
    server = subprocess.Popen(command, stdin=pipe, stdout=pipe, bufsize=0)
    # Without something to log to, the client of vot-trax 4.0.2 fails.
    streams = server.stdin.fileno(), server.stdout.fileno()
    client = Client(streams, log=lambda text: None)
    yield client
    client.quit()
    assert server.wait(30) == 0


def image_of(path):
    return {"color": FileImage.create(str(path))}


def test_the_client_is_told_what_the_tracker_takes(client):
    assert client.tracker_name == "mast_tiny"
    assert client.region_formats == [Region.RECTANGLE, Region.MASK]
    assert client.get("multiobject")


def test_boxes_are_answered_with_boxes_and_masks_with_masks(client, frames):
    first = [(Rectangle.create(*place(0, 0)), {}), (mask_of(0, 1), {})]
    states, _ = client.initialize(image_of(frames / "0.png"), first, {})
    assert [list(properties) for _, properties in states] == [[], []]  # given, not found
    for index in (1, 2):
        states, _ = client.frame(image_of(frames / f"{index}.png"), objects=[])
    (box, _), (mask, properties) = states
    assert iou(box.bounds(), place(2, 0)) > 0.6
    found = mask_on_image(mask, *SIZE)
    true = mask_on_image(mask_of(2, 1), *SIZE)
    assert (found & true).sum() / (found | true).sum() > 0.6
    assert 0 < float(properties["confidence"]) <= 1


def test_objects_may_come_later_and_frames_may_be_unreadable(client, frames):
    first = [(Rectangle.create(*place(0, 0)), {})]
    client.initialize(image_of(frames / "0.png"), first, {})
    states, _ = client.frame(image_of(frames / "none.png"), objects=[])
    assert states[0][0].bounds() == place(0, 0)
    assert float(states[0][1]["confidence"]) == 0.0
    later = [(Rectangle.create(*place(1, 1)), {})]
    states, _ = client.frame(image_of(frames / "1.png"), objects=later)
    assert len(states) == 2
    states, _ = client.frame(image_of(frames / "2.png"), objects=[])
    assert [iou(region.bounds(), place(2, n)) > 0.6 for n, (region, _) in enumerate(states)] == [
        True,
        True,
    ]


def test_masks_survive_the_way_there_and_back():
    mask = np.zeros((20, 30), bool)
    mask[4:9, 7:20] = np.random.default_rng(0).random((5, 13)) > 0.4
    mask[4, 7] = mask[8, 19] = True
    assert np.array_equal(mask_on_image(mask_region(mask), 20, 30), mask)
    empty = np.zeros((20, 30), bool)
    assert not mask_on_image(mask_region(empty), 20, 30).any()


def test_masks_beyond_the_image_are_cut():
    part = np.ones((4, 4), bool)
    assert placed_mask(part, (-2, 18), 20, 30).sum() == 4
    assert not placed_mask(part, (40, 0), 20, 30).any()
    assert not placed_mask(part, (0, -9), 20, 30).any()
