# SPDX-License-Identifier: Apache-2.0
"""Make the material that scenes are drawn from: tiles with segments, and cut-outs with alpha.

A bank of textures is either procedural, made here from a seed alone, or built from photographs by
`tools/picture_bank.py` and read from a file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from tracker_ros.output_files import replacement

TILE = 256
"""Side of a picture tile, pixels."""
LABEL = 128
"""Side of a tile's segment map, pixels (half the tile's resolution)."""
CUTOUT = 112
"""Side of a cut-out, pixels, its transparent margin included."""
CUTOUT_MARGIN = 8
"""Transparent margin on every side of a cut-out, pixels."""


@dataclass(frozen=True)
class TextureBank:
    """Material for scenes, all uint8."""

    tiles: np.ndarray  # (M, 256, 256, 3) RGB pictures
    # (M, 128, 128) segment maps at half resolution; 0 is background, 1..K a segment that may serve
    # as a target
    labels: np.ndarray
    # (N, 112, 112, 4) RGB and alpha of objects, centred with a transparent margin
    cutouts: np.ndarray

    def __post_init__(self) -> None:
        wanted = {
            "tiles": (TILE, TILE, 3),
            "labels": (LABEL, LABEL),
            "cutouts": (CUTOUT, CUTOUT, 4),
        }
        for name, shape in wanted.items():
            array = getattr(self, name)
            if array.dtype != np.uint8 or array.shape[1:] != shape or not len(array):
                raise ValueError(
                    f"{name} has shape {array.shape} and type {array.dtype}; expected uint8 "
                    f"(count > 0, {', '.join(map(str, shape))})"
                )

    def save(self, path: str | Path) -> None:
        """Write the bank as an uncompressed ``.npz``."""
        with replacement(Path(path)) as place, place.open("wb") as file:
            np.savez(file, tiles=self.tiles, labels=self.labels, cutouts=self.cutouts)

    @classmethod
    def load(cls, path: str | Path) -> TextureBank:
        """Read a bank that :meth:`save` wrote; raises ValueError if it holds other arrays."""
        return cls(**read_arrays(path, "tiles", "labels", "cutouts"))


def read_arrays(path: str | Path, *names: str) -> dict[str, np.ndarray]:
    """Read arrays by name from a ``.npz`` of `tools.fetch_pictures`.

    Raises FileNotFoundError if there is no such file, ValueError if it is damaged or lacks some.
    """
    try:
        with np.load(path, allow_pickle=False) as data:
            return {name: data[name] for name in names}
    except FileNotFoundError:
        raise FileNotFoundError(
            f"no pictures at {str(path)!r}; make them with `python -m tools.fetch_pictures`"
        ) from None
    except Exception as error:  # a damaged archive makes NumPy fail in any way
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise ValueError(
            f"{path} cannot be read as {', '.join(names)} ({reason}); make the file again with "
            "`python -m tools.fetch_pictures`"
        ) from error


def _smooth_noise(rng: np.random.Generator, size: int, cells: int, channels: int) -> np.ndarray:
    """Draw (size, size, channels) float32 noise of about ``cells`` features along a side."""
    coarse = rng.standard_normal((cells + 3, cells + 3, channels)).astype(np.float32)
    out = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    return out.reshape(size, size, channels)


def procedural_texture(rng: np.random.Generator, size: int) -> np.ndarray:
    """Draw a texture of several octaves, sometimes striped: (size, size, 3) uint8 RGB."""
    base = rng.uniform(40, 215, 3)
    image = np.broadcast_to(base, (size, size, 3)).astype(np.float32).copy()
    amplitude = rng.uniform(25, 60)
    cells = int(rng.integers(2, 5))
    while cells < size // 3:
        grey = _smooth_noise(rng, size, cells, 1)
        colour = _smooth_noise(rng, size, cells, 3)
        image += amplitude * (0.7 * grey + 0.4 * colour)
        amplitude *= rng.uniform(0.5, 0.8)
        cells = int(cells * rng.uniform(1.8, 2.6)) + 1
    if rng.random() < 0.3:
        angle, period = rng.uniform(0, np.pi), rng.uniform(size / 16, size / 4)
        y, x = np.mgrid[:size, :size].astype(np.float32)
        wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / period)
        image += (wave[..., None] > 0) * rng.uniform(-80, 80, 3)
    return np.clip(image, 0, 255).astype(np.uint8)


def procedural_silhouette(rng: np.random.Generator, size: int) -> np.ndarray:
    """Draw a body of overlapping ellipses with limbs and a ragged outline: (size, size) bool.

    It does not touch the array's borders.
    """
    mask = np.zeros((size, size), np.uint8)
    centre = size / 2
    for _ in range(int(rng.integers(1, 5))):
        offset = rng.normal(0, size * 0.10, 2)
        axes = rng.uniform(size * 0.10, size * 0.30, 2)
        middle = (int(centre + offset[0]), int(centre + offset[1]))
        turn = float(rng.uniform(0, 180))
        cv2.ellipse(mask, middle, (int(axes[0]), int(axes[1])), turn, 0, 360, 1, -1)
    for _ in range(int(rng.integers(0, 5))):
        angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(0.25, 0.42) * size
        tip = (int(centre + np.cos(angle) * length), int(centre + np.sin(angle) * length))
        cv2.line(mask, (int(centre), int(centre)), tip, 1, int(rng.integers(4, max(5, size // 9))))
    ragged = mask + 0.35 * _smooth_noise(rng, size, 10, 1)[..., 0]
    inside = cv2.GaussianBlur(ragged.astype(np.float32), (0, 0), 2.0) > 0.5
    inside[:2], inside[-2:], inside[:, :2], inside[:, -2:] = False, False, False, False
    count, parts, stats, _ = cv2.connectedComponentsWithStats(inside.astype(np.uint8))
    if count < 2:
        cv2.circle(mask, (size // 2, size // 2), size // 3, 1, -1)
        return mask.astype(bool)
    return parts == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))


def cutout_from(image: np.ndarray, alpha: np.ndarray) -> np.ndarray | None:
    """Centre an object, (H, W, 3) uint8 RGB with alpha (H, W) in [0, 1], in a standard cut-out.

    Returns (112, 112, 4) uint8, or None if the object is smaller than 12 px or too thin.
    """
    rows, columns = np.where(alpha.max(1) > 0.5)[0], np.where(alpha.max(0) > 0.5)[0]
    if len(rows) < 12 or len(columns) < 12:
        return None
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    if (alpha[top:bottom, left:right] > 0.5).mean() < 0.15:
        return None
    inner = CUTOUT - 2 * CUTOUT_MARGIN
    scale = inner / max(bottom - top, right - left)
    size = (max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale)))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    colour = cv2.resize(image[top:bottom, left:right], size, interpolation=method)
    cover = cv2.resize(alpha[top:bottom, left:right], size, interpolation=method)
    x, y = (CUTOUT - size[0]) // 2, (CUTOUT - size[1]) // 2
    out = np.zeros((CUTOUT, CUTOUT, 4), np.uint8)
    out[...] = (*colour.reshape(-1, 3).mean(0).astype(np.uint8), 0)
    out[y : y + size[1], x : x + size[0], :3] = colour
    out[y : y + size[1], x : x + size[0], 3] = np.clip(cover * 255, 0, 255)
    return out


def procedural_bank(seed: int, tiles: int = 24, cutouts: int = 48) -> TextureBank:
    """Make a bank from a seed alone, for tests, demonstrations and machines without pictures."""
    rng = np.random.default_rng(seed)
    pictures: list[np.ndarray] = []
    maps: list[np.ndarray] = []
    objects: list[np.ndarray] = []
    while len(objects) < cutouts:
        texture = procedural_texture(rng, CUTOUT)
        soft = cv2.GaussianBlur(procedural_silhouette(rng, CUTOUT).astype(np.float32), (0, 0), 0.8)
        cutout = cutout_from(texture, soft)
        if cutout is not None:
            objects.append(cutout)
    for _ in range(tiles):
        picture, labels = procedural_texture(rng, TILE), np.zeros((LABEL, LABEL), np.uint8)
        for label in range(1, int(rng.integers(3, 7))):
            side = int(rng.integers(40, 90))
            y, x = rng.integers(4, TILE - side - 4, 2)
            shape = procedural_silhouette(rng, side)
            picture[y : y + side, x : x + side][shape] = procedural_texture(rng, side)[shape]
            full = np.zeros((TILE, TILE), bool)
            full[y : y + side, x : x + side] = shape
            labels[full[::2, ::2]] = label
        pictures.append(picture)
        maps.append(labels)
    return TextureBank(np.stack(pictures), np.stack(maps), np.stack(objects))
