# SPDX-License-Identifier: Apache-2.0
"""Draw a sheet of training pairs, to look at what a network is taught.

python -m tracker_ros.synthetic.gallery --out docs/media/pairs.jpg [--bank pictures.npz]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from tracker_ros.models.ostrack.config import OSTRACK_TINY
from tracker_ros.synthetic.pairs import PairBatch, PairGenerator
from tracker_ros.synthetic.textures import TextureBank, procedural_bank

PRESENT, ABSENT = (40, 220, 60), (230, 50, 40)


def pair_sheet(batch: PairBatch, columns: int) -> np.ndarray:
    """Pairs side by side, (H, W, 3) uint8 RGB: the true box green, red without a target."""
    import cv2

    tiles = []
    for index in range(len(batch.boxes)):
        template, search = (
            (crop[index].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8).copy()
            for crop in (batch.template, batch.search)
        )
        side = search.shape[0]
        x, y, w, h = (batch.boxes[index] * side).round().int().tolist()
        colour = PRESENT if batch.present[index] else ABSENT
        cv2.rectangle(search, (x, y), (x + w - 1, y + h - 1), colour, 1)
        below = np.full((side - template.shape[0], template.shape[1], 3), 255, np.uint8)
        tiles.append(
            np.pad(
                np.hstack([np.vstack([template, below]), search]),
                ((0, 4), (0, 4), (0, 0)),
                constant_values=255,
            )
        )
    rows = [np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)]
    return np.vstack(rows)


def main() -> None:
    """Command line."""
    import cv2

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--bank", type=Path, default=None, help="procedural textures without")
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--rows", type=int, default=3)
    parser.add_argument("--columns", type=int, default=4)
    args = parser.parse_args()
    bank = TextureBank.load(args.bank) if args.bank else procedural_bank(args.seed)
    network = OSTRACK_TINY
    pairs = PairGenerator(bank, network.template_size, network.search_size)
    sheet = pair_sheet(pairs.batch(args.rows * args.columns, args.seed), args.columns)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(args.out), sheet[..., ::-1])


if __name__ == "__main__":
    main()
