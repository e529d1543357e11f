# SPDX-License-Identifier: Apache-2.0
"""Draw whole sequences with exact truth: one target, distractors, occluders, a moving camera.

for frame in synthetic_video(seed=1, frames=120, size=(640, 480)):
    frame.image, frame.box, frame.mask, frame.visibility

`tracker_ros.io.sources` imports this module on demand, for sources named ``synthetic``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tracker_ros.geometry import Box
from tracker_ros.io.video_source import DEFAULT_FPS, VideoSource
from tracker_ros.synthetic.photometric import disguise
from tracker_ros.synthetic.render import (
    Draw,
    linear_pose,
    mask_boxes,
    planar,
    smooth_field,
    warp,
)
from tracker_ros.synthetic.textures import CUTOUT, procedural_bank, procedural_texture

GROUND = 512
"""Side of the background texture, pixels."""
FLOW_CELLS = 5
NOISE = 0.01
"""Standard deviation of pixel noise; white is 1."""
BLUR_SPEED = 6.0
"""Speed of the target above which it blurs, pixels per 1/30 s."""


@dataclass(frozen=True)
class SceneConfig:
    """What happens in a scene. Lengths are fractions of the frame's shorter side."""

    target_side: float = 0.18  # mean side of the target
    # largest distance of the target from the middle of the frame, along each axis
    travel: float = 0.28
    period: float = 5.0  # seconds until the target is about where it began
    scale_change: float = 0.2  # amplitude of the change of size, as a fraction
    turn: float = 0.25  # amplitude of rotation, radians
    deformation: float = 3.0  # amplitude of elastic deformation, texture pixels
    limbs: int = 2  # number of limbs that swing about the target's middle
    distractors: int = 2  # number of other moving objects; every second one looks like the target
    occluders: int = 1  # number of objects that stand still in front of the target's path
    camera: float = 0.08  # amplitude of the background's movement
    light: float = 0.15  # amplitude of the change of light, logarithmic
    leaves: bool = False  # whether the target leaves the frame once and comes back


@dataclass(frozen=True)
class SyntheticFrame:
    """One frame and its truth."""

    image: np.ndarray  # (H, W, 3) uint8 RGB
    # x, y, w, h in pixels around the whole target, hidden parts included, cut at the frame's
    # edges; zeros if no part of it is in the frame
    box: Box
    mask: np.ndarray  # (H, W) bool, the target's visible pixels
    visibility: float  # visible share of the whole target, in [0, 1]


class _Path:
    """A smooth random path around zero: two sines per axis, within [-1, 1]."""

    def __init__(self, rng: np.random.Generator, axes: int, period: float) -> None:
        self._rate = 2 * math.pi / (period * rng.uniform(0.8, 1.3, (axes, 2)) * [1.0, 0.43])
        self._phase = rng.uniform(0, 2 * math.pi, (axes, 2))
        self._share = np.array([0.75, 0.25])

    def at(self, time: float) -> np.ndarray:
        """Return the position (axes,) at a time in seconds."""
        return np.sin(self._rate * time + self._phase) @ self._share


class _Object:
    """A moving cut-out: texture (1, 4, 112, 112), its path, how it turns and deforms."""

    def __init__(
        self, rng: np.random.Generator, texture: Tensor, side: float, config: SceneConfig
    ) -> None:
        self.texture, self.side, self.config = texture, side, config
        self.place = _Path(rng, 2, config.period)
        self.shape = _Path(rng, 3, config.period * 0.8)
        self.bend = _Path(rng, 2 * FLOW_CELLS**2, config.period * 0.6)

    def draw(self, time: float, middle: np.ndarray, side: int, turn: float = 0.0) -> Tensor:
        """Draw it (4, side, side) at ``middle``, pixels from the centre of the window."""
        angle, aspect, scale = self.shape.at(time)
        size = self.side * (1 + self.config.scale_change * scale) / CUTOUT
        linear = linear_pose(
            torch.tensor([self.config.turn * angle + turn], dtype=torch.float32),
            torch.tensor([0.1 * aspect], dtype=torch.float32),
            scale=torch.tensor([size], dtype=torch.float32),
        )
        flow = torch.from_numpy(self.bend.at(time)).float().view(1, 2, FLOW_CELLS, FLOW_CELLS)
        centre = torch.from_numpy(middle).float()[None]
        return warp(self.texture, linear, centre, (side, side), flow * self.config.deformation)[0]


class SyntheticScene:
    """A scene of which any moment can be drawn; the same seed gives the same scene.

    The size is (width, height) in pixels, at least 64 each; else ValueError is raised.
    """

    def __init__(
        self,
        seed: int,
        size: tuple[int, int] = (640, 480),
        config: SceneConfig = SceneConfig(),  # noqa: B008  (immutable)
    ) -> None:
        if min(size) < 64:
            raise ValueError(f"size {size}: a scene needs at least 64 x 64 pixels")
        self.seed, self.config = seed, config
        self.width, self.height = size
        rng = np.random.default_rng([seed, 1])
        bank = procedural_bank(seed, tiles=1, cutouts=4 + config.distractors + config.limbs)
        objects = planar(torch.from_numpy(bank.cutouts))
        self.short = min(size)
        ground = torch.from_numpy(procedural_texture(rng, GROUND))
        self.ground = 0.25 + 0.55 * planar(ground[None])
        side = config.target_side * self.short
        self.target = _Object(rng, objects[:1], side, config)
        self.limbs = [
            _Object(rng, _limb(objects[4 + config.distractors + i]), side * 0.9, config)
            for i in range(config.limbs)
        ]
        draw = Draw(torch.device("cpu"), seed)
        self.distractors = []
        for i in range(config.distractors):
            texture = disguise(draw, objects[:1]) if i % 2 else objects[4 + i : 5 + i]
            self.distractors.append(_Object(rng, texture, side * rng.uniform(0.8, 1.2), config))
        self.occluders = [
            _Object(rng, objects[1 + i % 3 : 2 + i % 3], side * 1.4, config)
            for i in range(config.occluders)
        ]
        self.camera = _Path(rng, 3, config.period * 1.7)
        self.light = _Path(rng, 1, config.period * 0.9)
        self.spots = rng.uniform(-1, 1, (max(1, config.occluders), 2))

    def target_centre(self, time: float) -> np.ndarray:
        """Return x, y (2,) of the target's middle, pixels from the frame's centre."""
        reach = np.array([self.width, self.height]) * self.config.travel
        centre = self.target.place.at(time) * reach
        if self.config.leaves:
            away = max(0.0, 1 - abs(time - self.config.period) / 1.5)
            centre[0] += away * self.width
        return centre

    @torch.no_grad()
    def frame(self, time: float, index: int = 0) -> SyntheticFrame:
        """Draw the scene at a time in seconds; ``index`` seeds the noise."""
        image = self._background(time)
        for distractor in self.distractors:
            reach = np.array([self.width, self.height]) * 0.42
            self._lay(image, distractor, time, distractor.place.at(time) * reach)
        centre = self.target_centre(time)
        whole = torch.zeros(self.height, self.width)
        total = 0.0
        for part, turn in self._parts(time):
            total = max(total, self._lay(image, part, time, centre, turn, whole))
        shown = whole.clone()
        for occluder, spot in zip(self.occluders, self.spots, strict=False):
            place = spot * np.array([self.width, self.height]) * self.config.travel
            self._lay(image, occluder, time, place, hides=shown)
        image = self._camera_effects(image, time, index)
        mask, full = (shown > 0.5).numpy(), whole > 0.5
        x, y, w, h = mask_boxes(full[None])[0][0].tolist()
        visibility = float(mask.sum() / max(total, float(full.sum()), 1.0))
        # In place: at this size a new array costs more than the arithmetic.
        pixels = image.clamp_(0, 1).mul_(255).round_().byte().permute(1, 2, 0).contiguous().numpy()
        return SyntheticFrame(pixels, (x, y, w, h), mask, min(1.0, visibility))

    def _parts(self, time: float) -> list[tuple[_Object, float]]:
        """Return the target's limbs and then its body, each with its turn in radians."""
        turns = [float(limb.shape.at(time * 1.5)[0]) for limb in self.limbs]
        limbs = [(limb, 2.4 * i + 0.7 * turns[i]) for i, limb in enumerate(self.limbs)]
        return [*limbs, (self.target, 0.0)]

    def _background(self, time: float) -> Tensor:
        x, y, angle = self.camera.at(time)
        zoom = 1.25 * max(self.width, self.height) / GROUND
        linear = linear_pose(
            torch.tensor([0.05 * angle], dtype=torch.float32), scale=torch.tensor([zoom])
        )
        drift = torch.tensor([[x, y]], dtype=torch.float32) * self.config.camera * self.short
        size = (self.height, self.width)
        return warp(self.ground, linear, drift, size, padding="reflection")[0]

    def _lay(
        self,
        image: Tensor,
        thing: _Object,
        time: float,
        centre: np.ndarray,
        turn: float = 0.0,
        cover: Tensor | None = None,
        hides: Tensor | None = None,
    ) -> float:
        """Draw an object into the frame (3, H, W), in place, ``centre`` pixels from its centre.

        Its alpha is also drawn into ``cover`` (H, W); ``hides`` (H, W) becomes zero where it is.

        Returns:
            Number of pixels of the whole object, those outside the frame included.
        """
        half = math.ceil(thing.side)
        x, y = centre[0] + self.width / 2, centre[1] + self.height / 2
        left, top = math.floor(x) - half, math.floor(y) - half
        offset = np.array([x - (left + half), y - (top + half)])
        layer = thing.draw(time, offset, 2 * half, turn)
        total = float((layer[3] > 0.5).sum())
        x0, y0 = max(left, 0), max(top, 0)
        x1, y1 = min(left + 2 * half, self.width), min(top + 2 * half, self.height)
        if x1 <= x0 or y1 <= y0:
            return total
        inside = layer[:, y0 - top : y1 - top, x0 - left : x1 - left]
        window = image[:, y0:y1, x0:x1]
        window.lerp_(inside[:3], inside[3:].expand(3, -1, -1))
        if cover is not None:
            part = cover[y0:y1, x0:x1]
            torch.maximum(part, inside[3], out=part)
        if hides is not None:
            hides[y0:y1, x0:x1].masked_fill_(inside[3] > 0.5, 0.0)
        return total

    def _camera_effects(self, image: Tensor, time: float, index: int) -> Tensor:
        """Add light, shade, blur by the target's speed, and noise to a (3, H, W) image."""
        draw = Draw(torch.device("cpu"), self.seed * 100_003 + index)
        gain = self.config.light * float(self.light.at(time)[0])
        shade = torch.tensor([[[[0.0, 1.0], [-1.0, 0.0]]]]) * self.config.light + gain
        image.mul_(smooth_field(shade, (self.height, self.width))[0].exp_())
        speed = np.abs(self.target_centre(time + 1 / 60) - self.target_centre(time - 1 / 60)).max()
        if speed > BLUR_SPEED:
            image = F.avg_pool2d(image[None], 3, stride=1, padding=1, count_include_pad=False)[0]
        return image.add_(draw.normal(tuple(image.shape), NOISE))


def _limb(texture: Tensor) -> Tensor:
    """Narrow a cut-out to a limb that reaches from the middle to one side: (1, 4, 112, 112)."""
    limb = texture.clone()[None]
    rows = torch.arange(CUTOUT)
    narrow = (rows - CUTOUT / 2).abs() < CUTOUT * 0.08
    limb[:, 3] *= narrow[None, :, None]
    limb[:, 3, :, : CUTOUT // 2] = 0
    return limb


def synthetic_video(
    seed: int,
    frames: int,
    size: tuple[int, int] = (640, 480),
    config: SceneConfig = SceneConfig(),  # noqa: B008  (immutable)
) -> Iterator[SyntheticFrame]:
    """Yield the first ``frames`` frames of a scene; see `SyntheticScene`."""
    scene = SyntheticScene(seed, size, config)
    for index in range(frames):
        yield scene.frame(index / DEFAULT_FPS, index)


class SceneSource(VideoSource):
    """A scene ``synthetic[:SEED]`` as a source of frames; it knows its target's first box.

    By default it has 300 frames of 640 x 480 pixels at 30 frames per second. Raises ValueError if
    the seed is not a whole number, or the size is too small.
    """

    def __init__(
        self,
        name: str,
        fps: float | None = None,
        size: tuple[int, int] | None = None,
        count: int | None = None,
    ) -> None:
        self.name = name
        self.fps = fps or DEFAULT_FPS
        self.size = size or (640, 480)
        self._count = self.frame_count = count or 300
        self._scene = SyntheticScene(seed_of(name), self.size)
        self.first_box = self._scene.frame(0.0).box

    def timed_frames(self, start: int = 0) -> Iterator[tuple[float, np.ndarray]]:
        """Yield time and image of each frame; see `VideoSource`."""
        for number in range(start, self._count):
            yield number / self.fps, self._scene.frame(number / DEFAULT_FPS, number).image


def seed_of(name: str) -> int:
    """Return the seed in ``synthetic:SEED``, 0 without one; raises ValueError for other texts."""
    _, _, seed = name.partition(":")
    if seed and not seed.isdigit():
        raise ValueError(f"synthetic seed is {seed!r}; write a whole number: synthetic:7")
    return int(seed or 0)
