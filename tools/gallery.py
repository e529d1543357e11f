# SPDX-License-Identifier: Apache-2.0
"""Draw a sheet of training pairs, clips or runs, to look at what a network is taught.

Call it in one of these ways::

    dev/run python -m tools.gallery --out docs/media/pairs.jpg [--bank pictures.npz]
    dev/run python -m tools.gallery --clips --out docs/media/clips.jpg
    dev/run python -m tools.gallery --runs --out docs/media/runs.jpg
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from tracker_ros.models.one_stream.config import OSTRACK_TINY
from tracker_ros.synthetic.moving_scenes import FrameBatch, FrameConfig, MovingScenes
from tracker_ros.synthetic.samples import ClipBatch, ClipGenerator, PairBatch, PairGenerator
from tracker_ros.synthetic.textures import TextureBank, procedural_bank

CLIP_SIDE = 160
RUN = FrameConfig(size=160, pan=2.0, speed=3.0)
OBJECT_COLOURS = np.array([[0, 0, 0], [230, 50, 40], [40, 220, 60], [60, 90, 255]])
PRESENT, ABSENT = (40, 220, 60), (230, 50, 40)


def _tile(image: Tensor, box: Sequence[int], present: bool) -> np.ndarray:
    """A crop (3, S, S) in [0, 1] as (S, S, 3) uint8 RGB with its box, x, y, w, h in pixels."""
    import cv2

    tile = (image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8).copy()
    x, y, w, h = box
    cv2.rectangle(tile, (x, y), (x + w - 1, y + h - 1), PRESENT if present else ABSENT, 1)
    return tile


def _sheet(tiles: list[np.ndarray], columns: int) -> np.ndarray:
    """Tiles of one size, side by side with gaps."""
    padded = [np.pad(tile, ((0, 4), (0, 4), (0, 0)), constant_values=255) for tile in tiles]
    rows = [np.hstack(padded[i : i + columns]) for i in range(0, len(padded), columns)]
    return np.vstack(rows)


def pair_sheet(batch: PairBatch, columns: int) -> np.ndarray:
    """Pairs side by side, (H, W, 3) uint8 RGB: the true box green, red without a target."""
    tiles = []
    for index, box in enumerate(batch.boxes):
        side = batch.search.shape[-1]
        place = (box * side).round().int().tolist()
        search = _tile(batch.search[index], place, bool(batch.present[index]))
        template = (batch.template[index].permute(1, 2, 0).numpy() * 255).round()
        below = ((0, side - template.shape[0]), (0, 0), (0, 0))
        template = np.pad(template.astype(np.uint8), below, constant_values=255)
        tiles.append(np.hstack([template, search]))
    return _sheet(tiles, columns)


def clip_sheet(batch: ClipBatch, columns: int) -> np.ndarray:
    """Clips side by side, (H, W, 3) uint8 RGB: the true box green, red without a target."""
    tiles = [
        np.hstack(
            [
                _tile(image, box.round().int().tolist(), bool(shown))
                for image, box, shown in zip(images, boxes, present, strict=True)
            ]
        )
        for images, boxes, present in zip(batch.images, batch.boxes, batch.present, strict=True)
    ]
    return _sheet(tiles, columns)


def run_sheet(batch: FrameBatch, columns: int) -> np.ndarray:
    """Runs side by side, (H, W, 3) uint8 RGB: objects are tinted by their label."""
    assert batch.labels is not None
    images = batch.images.permute(0, 1, 3, 4, 2).numpy() * 255
    labels = batch.labels.numpy()
    share = np.where(labels > 0, 0.4, 0.0)[..., None]
    tinted = (1 - share) * images + share * OBJECT_COLOURS[labels]
    return _sheet([np.hstack(list(run)) for run in tinted.round().astype(np.uint8)], columns)


def main() -> None:
    """Command line."""
    import cv2

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--bank", type=Path, default=None, help="procedural textures without")
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--rows", type=int, default=3)
    parser.add_argument("--columns", type=int, default=4)
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--clips", action="store_true", help="clips instead of pairs")
    kinds.add_argument("--runs", action="store_true", help="runs of frames instead of pairs")
    args = parser.parse_args()
    bank = TextureBank.load(args.bank) if args.bank else procedural_bank(args.seed)
    count = args.rows * args.columns
    if args.clips:
        sheet = clip_sheet(ClipGenerator(bank, CLIP_SIDE).batch(count, args.seed), args.columns)
    elif args.runs:
        sheet = run_sheet(MovingScenes(bank, config=RUN).batch(count, args.seed), args.columns)
    else:
        pairs = PairGenerator(bank, OSTRACK_TINY.template_size, OSTRACK_TINY.search_size)
        sheet = pair_sheet(pairs.batch(count, args.seed), args.columns)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(args.out), sheet[..., ::-1])


if __name__ == "__main__":
    main()
