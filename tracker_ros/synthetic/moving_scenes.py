# SPDX-License-Identifier: Apache-2.0
"""Draw short runs of consecutive frames from a texture bank: a moving camera, moving objects.

Trackers that match whole images learn from them what stays the same while everything moves. The
camera pans, turns and zooms over a picture; cut-outs move on their own in front of it and of each
other, turn, grow and deform; light flickers. Every frame has a label map, with which masks that
were carried through the frames can be judged.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tracker_ros.synthetic.photometric import PhotometricConfig, Style, develop
from tracker_ros.synthetic.render import Draw, composite, linear_pose, planar, warp
from tracker_ros.synthetic.textures import CUTOUT, TextureBank

FLOW_CELLS = 5
"""Side of the coarse displacement fields that deform background and objects."""


FLICKER = PhotometricConfig(
    gain=0.03,
    colour_gain=0.01,
    gamma=0.02,
    grey_fraction=0.0,  # would leave no colour to learn from
    shade_fraction=0.2,
    shade=0.1,
    motion_blur_fraction=0.1,
    motion_blur_length=5.0,
    coarse_fraction=0.1,
    coarse_limit=0.5,
    noise_limit=0.03,
)
"""How the light changes from frame to frame of one run."""


@dataclass(frozen=True)
class FrameConfig:
    """How short runs of frames vary. Numbers from ``pan`` on are standard deviations."""

    frames: int = 4  # frames of a run
    # how many frames before the second the first frame of a run is, at most; 0 for the one just
    # before it. Only runs of real videos have such a frame.
    far_gap: int = 0
    size: int = 256  # side of a frame, pixels
    objects: int = 3  # maximum number of objects in front of the background
    object_fraction: float = 0.8  # probability of each
    smallest: float = 0.2  # minimum side of an object, as a fraction of the frame's
    largest: float = 0.8  # maximum side of an object
    pan: float = 3.0  # speed of the camera along an axis, pixels per frame
    speed: float = 4.0  # speed of an object, in addition to the camera's
    # spread of the logarithm of a run's speeds, so that some runs hardly move
    speed_spread: float = 0.7
    # rotation of an object, radians per frame; the camera turns a quarter of it
    turn: float = 0.04
    # change of an object's logarithmic size per frame; the camera zooms half of it
    growth: float = 0.015
    deformation: float = 3.0  # elastic displacement of objects, texture pixels
    bending: float = 0.8  # change of the displacement per frame
    light: float = 0.2  # logarithmic brightness of a run; half of it for each colour
    photometric: PhotometricConfig = FLICKER  # changes of light from frame to frame


@dataclass(frozen=True)
class FrameBatch:
    """A batch of runs of T consecutive frames."""

    images: Tensor  # (B, T, 3, S, S) float in [0, 1], RGB
    # (B, T, S, S) uint8, 0 for background, 1 to K for the visible part of an object; None for runs
    # without labels
    labels: Tensor | None


class MovingScenes:
    """Draw :class:`FrameBatch` objects, each a function of its seed alone."""

    def __init__(
        self,
        bank: TextureBank,
        device: str | torch.device = "cpu",
        config: FrameConfig = FrameConfig(),  # noqa: B008  (immutable)
    ) -> None:
        self.config = config
        self.device = torch.device(device)
        self.tiles = torch.from_numpy(bank.tiles).to(self.device)
        self.cutouts = torch.from_numpy(bank.cutouts).to(self.device)

    def batch(self, size: int, seed: int) -> FrameBatch:
        """Draw ``size`` runs. The same seed gives the same runs on the same kind of device."""
        draw, c = Draw(self.device, seed), self.config
        time = torch.arange(c.frames, device=self.device) - (c.frames - 1) / 2
        pace = torch.exp(draw.normal((size, 1), c.speed_spread))
        camera = self._camera(draw, size, time, pace)
        image = self._background(draw, size, time, pace, camera)
        labels = torch.zeros(len(image), c.size, c.size, dtype=torch.uint8, device=self.device)
        for number in range(1, c.objects + 1):
            layer = self._object(draw, size, time, pace, camera)
            there = draw.chance(size, c.object_fraction).float().repeat_interleave(c.frames)
            image = composite(image, layer, there)
            labels[layer[:, 3] * there[:, None, None] > 0.5] = number
        images = develop_run(draw, image.unflatten(0, (size, c.frames)), c)
        return FrameBatch(images, labels.unflatten(0, (size, c.frames)))

    def _camera(self, draw: Draw, size: int, time: Tensor, pace: Tensor) -> tuple[Tensor, Tensor]:
        """Draw the camera's motion: maps (B * T, 2, 2) and translations (B * T, 2)."""
        c = self.config
        angle = draw.normal((size, 1), c.turn / 4) * pace * time
        zoom = torch.exp(draw.normal((size, 1), c.growth / 2) * pace * time)
        shift = _path(draw, size, time, c.pan * pace)
        return linear_pose(angle.flatten(), scale=zoom.flatten()), shift.flatten(0, 1)

    def _background(
        self, draw: Draw, size: int, time: Tensor, pace: Tensor, camera: tuple[Tensor, Tensor]
    ) -> Tensor:
        c, frames = self.config, len(time)
        tile = planar(self.tiles[draw.index(size, len(self.tiles))])
        mirrored = draw.chance(size, 0.5)[:, None, None, None]
        tile = torch.where(mirrored, tile.flip(-1), tile)
        angle = draw.normal((size, 1), 0.15).expand(-1, frames)
        zoom = torch.exp(draw.uniform((size, 1), 0.1, 0.6)).expand(-1, frames)
        scale = zoom * (c.size / tile.shape[-1])
        linear = camera[0] @ linear_pose(angle.flatten(), scale=scale.flatten())
        # Nearer and farther parts of a scene move apart: a slight, steady deformation.
        flow = draw.normal((size, 1, 2, FLOW_CELLS, FLOW_CELLS), c.bending / 2)
        flow = flow * (pace * time)[:, :, None, None, None]
        tile = tile.repeat_interleave(frames, 0)
        side = (c.size, c.size)
        return warp(tile, linear, camera[1], side, flow.flatten(0, 1), padding="reflection")

    def _object(
        self, draw: Draw, size: int, time: Tensor, pace: Tensor, camera: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Draw one cut-out per run, (B * T, 4, S, S) RGB and alpha."""
        c, frames = self.config, len(time)
        cutout = planar(self.cutouts[draw.index(size, len(self.cutouts))])
        angle = draw.normal((size, 1), 0.3) + draw.normal((size, 1), c.turn) * pace * time
        aspect = draw.normal((size, 1), 0.15) + draw.normal((size, 1), c.growth) * pace * time
        extent = draw.uniform((size, 1), math.log(c.smallest), math.log(c.largest))
        growth = draw.normal((size, 1), c.growth) * pace * time
        scale = torch.exp(extent + growth) * (c.size / CUTOUT)
        pose = linear_pose(angle.flatten(), aspect.flatten(), scale=scale.flatten())
        linear = camera[0] @ pose
        start = draw.uniform((size, 1, 2), -0.42, 0.42) * c.size
        place = (start + _path(draw, size, time, c.speed * pace)).flatten(0, 1)
        centre = (camera[0] @ place[..., None])[..., 0] + camera[1]
        cells = (size, 1, 2, FLOW_CELLS, FLOW_CELLS)
        flow = draw.normal(cells, c.deformation)
        flow = flow + draw.normal(cells, c.bending) * (pace * time)[:, :, None, None, None]
        cutout = cutout.repeat_interleave(frames, 0)
        return warp(cutout, linear, centre, (c.size, c.size), flow.flatten(0, 1))


def develop_run(draw: Draw, images: Tensor, config: FrameConfig) -> Tensor:
    """Vary the light of whole runs and of each frame, on images (B, T, 3, H, W) in [0, 1]."""
    size, frames = images.shape[:2]
    gain = draw.normal((size, 1, 1, 1, 1), config.light)
    tint = draw.normal((size, 1, 3, 1, 1), config.light / 2)
    gamma = torch.exp(draw.normal((size, 1, 1, 1, 1), config.light))
    images = (images.clamp(1e-4, 1) ** gamma * torch.exp(gain + tint)).clamp(max=1)
    style = Style.draw(draw, size, config.photometric)
    style = style.repeated(frames)
    return develop(draw, images.flatten(0, 1), style).unflatten(0, (size, frames))


def _path(draw: Draw, size: int, time: Tensor, speed: Tensor) -> Tensor:
    """Draw places (B, T, 2) at times (T,): a speed (B, 1) in px/frame, slightly accelerated."""
    steady, change = draw.normal((size, 1, 2), 1.0), draw.normal((size, 1, 2), 0.15)
    moment = time[:, None]
    return (steady * moment + change * moment.square() / 2) * speed[:, :, None]
