# SPDX-License-Identifier: Apache-2.0
"""Build a bank of textures from photographs: tiles with segments, and cut-outs of whole objects.

    python -m tools.picture_bank FOLDER --out bank.npz

Photographs are cut into tiles at random scales; graph-based segmentation (Felzenszwalb and
Huttenlocher, IJCV 2004) proposes regions that may serve as targets. Pictures with transparency
(stamps, sprites) give cut-outs of whole objects. `tools/fetch_pictures.py` collects pictures that
come inside Debian and Python packages; any folder of pictures will do.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from tracker_ros.synthetic.textures import LABEL, TILE, TextureBank, cutout_from

PICTURE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
GRABCUT_SIDE = 160
"""Longer side of a photograph in which a thing is looked for, pixels."""
MAX_PICTURE_SIDE = 1600
"""Longer side that larger photographs are shrunk to, pixels."""


def read_picture(path: Path) -> tuple[np.ndarray, np.ndarray | None] | None:
    """Read a picture as (H, W, 3) uint8 RGB and (H, W) float32 alpha or None.

    Returns None for a file that cannot be decoded, is under 96 px, or has hardly any contrast.
    """
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if image is None or min(image.shape[:2]) < 96:
        return None
    if image.dtype != np.uint8:
        image = (image / 257).astype(np.uint8)
    if image.ndim == 2:
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    scale = MAX_PICTURE_SIDE / max(image.shape[:2])
    if scale < 1:
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    alpha = None
    if image.shape[2] == 4:
        alpha = image[..., 3].astype(np.float32) / 255
        if alpha.min() > 0.9:
            alpha = None
    rgb = cv2.cvtColor(image[..., :3], cv2.COLOR_BGR2RGB)
    if rgb.std() < 12:
        return None
    return rgb, alpha


def segment_tile(tile: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Find segments of a (256, 256, 3) tile that look like things.

    Returns:
        (128, 128) uint8 labels: 0 none, 1..K compact regions of 0.8 % to 14 % of the tile that
        do not touch its border.
    """
    from skimage.segmentation import felzenszwalb

    small = cv2.resize(tile, (LABEL, LABEL), interpolation=cv2.INTER_AREA)
    raw = felzenszwalb(small, scale=float(rng.uniform(60, 500)), sigma=0.7, min_size=50)
    out = np.zeros((LABEL, LABEL), np.uint8)
    label = 0
    for index in range(int(raw.max()) + 1):
        mask = (raw == index).astype(np.uint8)
        x, y, w, h = cv2.boundingRect(mask)
        area = int(mask.sum())
        touches = x == 0 or y == 0 or x + w == LABEL or y + h == LABEL
        compact = area / (w * h) > 0.33 and max(w, h) < 4 * min(w, h)
        if not touches and compact and 0.008 < area / LABEL**2 < 0.14 and label < 250:
            label += 1
            out[mask > 0] = label
    return out


def random_tile(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cut a random square out of a picture, resampled to (256, 256, 3) uint8."""
    height, width = image.shape[:2]
    largest = min(height, width)
    side = int(largest * np.sqrt(rng.uniform(min(1.0, 160 / largest) ** 2, 1.0)))
    y, x = int(rng.integers(0, height - side + 1)), int(rng.integers(0, width - side + 1))
    method = cv2.INTER_AREA if side > TILE else cv2.INTER_LINEAR
    return cv2.resize(image[y : y + side, x : x + side], (TILE, TILE), interpolation=method)


def segment_cutout(
    tile: np.ndarray, labels: np.ndarray, rng: np.random.Generator
) -> np.ndarray | None:
    """Cut one random segment out of a tile, with soft edges. Returns None if it has none."""
    if labels.max() == 0:
        return None
    mask = (labels == rng.integers(1, labels.max() + 1)).astype(np.float32)
    mask = cv2.GaussianBlur(cv2.resize(mask, (TILE, TILE)), (0, 0), float(rng.uniform(1, 3)))
    return cutout_from(tile, np.clip((mask - 0.25) * 2, 0, 1))


def middle_cutout(image: np.ndarray) -> np.ndarray | None:
    """Cut out the thing that a photograph shows in its middle, by GrabCut (Rother et al., 2004).

    Returns None if none stands out: it would miss the middle, be small, or run to the border.
    """
    height, width = image.shape[:2]
    scale = GRABCUT_SIDE / max(height, width)
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    h, w = small.shape[:2]
    mask = np.zeros((h, w), np.uint8)
    models = np.zeros((2, 1, 65))
    frame = (w // 8, h // 8, w * 3 // 4, h * 3 // 4)
    cv2.grabCut(small, mask, frame, *models, 4, cv2.GC_INIT_WITH_RECT)
    _, parts = cv2.connectedComponents((mask & 1).astype(np.uint8))
    thing = parts == (parts[h // 2, w // 2] or -1)
    border = np.concatenate([thing[0], thing[-1], thing[:, 0], thing[:, -1]])
    if not 0.06 < thing.mean() < 0.6 or border.any():
        return None
    alpha = cv2.resize(cv2.GaussianBlur(thing.astype(np.float32), (0, 0), 1.0), (width, height))
    return cutout_from(image, np.clip((alpha - 0.25) * 2, 0, 1))


def build_bank(
    folder: Path, seed: int, tiles_per_picture: int = 8, things: bool = False
) -> TextureBank:
    """Build a bank from every picture under ``folder``.

    With ``things``, what a photograph shows in its middle becomes a cut-out, too.

    Raises:
        FileNotFoundError: There is no usable picture.
    """
    from tqdm import tqdm

    rng = np.random.default_rng(seed)
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in PICTURE_SUFFIXES)
    tiles, maps, cutouts = [], [], []
    for path in tqdm(paths, desc="pictures", unit="picture"):
        picture = read_picture(path)
        if picture is None:
            continue
        image, alpha = picture
        if alpha is not None:
            cutout = cutout_from(image, alpha)
            if cutout is not None:
                cutouts.append(cutout)
            continue
        if things and (cutout := middle_cutout(image)) is not None:
            cutouts.append(cutout)
        for _ in range(tiles_per_picture):
            tile = random_tile(image, rng)
            if tile.std() < 14:
                continue
            labels = segment_tile(tile, rng)
            tiles.append(tile)
            maps.append(labels)
            cutout = segment_cutout(tile, labels, rng)
            if cutout is not None:
                cutouts.append(cutout)
    if not tiles or not cutouts:
        raise FileNotFoundError(
            f"no usable pictures under {folder} ({len(paths)} files seen); "
            "run `python -m tools.fetch_pictures` or name a folder of photographs"
        )
    return TextureBank(np.stack(tiles), np.stack(maps), np.stack(cutouts))


def main() -> None:
    """Build a bank of a folder of pictures and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tiles-per-picture", type=int, default=8)
    parser.add_argument(
        "--things", action="store_true", help="photographs of one thing each, in the middle"
    )
    args = parser.parse_args()
    bank = build_bank(args.folder, args.seed, args.tiles_per_picture, args.things)
    bank.save(args.out)
    print(f"{args.out}: {len(bank.tiles)} tiles, {len(bank.cutouts)} cut-outs")


if __name__ == "__main__":
    main()
