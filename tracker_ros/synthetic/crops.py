# SPDX-License-Identifier: Apache-2.0
"""Draw crops of scenes from a texture bank: what pairs and clips have in common.

A scene has a target over a background. The target is either a segment of a picture, which is then
its surroundings too, or a cut-out over a picture that moves on its own. Every crop of a scene has
distractors, occluders, elastic deformation, light, shade, blur, noise and image borders.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tracker_ros.geometry import xywh_to_cxcywh
from tracker_ros.synthetic.photometric import PhotometricConfig, Style, develop, disguise, relight
from tracker_ros.synthetic.render import (
    BorderFill,
    Draw,
    Shape,
    composite,
    cut_at_borders,
    fit_pose,
    linear_pose,
    mask_boxes,
    planar,
    warp,
)
from tracker_ros.synthetic.textures import CUTOUT, TILE, TextureBank

FLOW_CELLS = 7
"""Side of the coarse displacement field that deforms a target across the search crop."""


@dataclass(frozen=True)
class PairConfig:
    """How scenes vary. Fractions are probabilities; the rest are standard deviations or limits.

    Lengths are relative to the target's side in the crop (the square root of its box area). In a
    share `stretched_fraction` of the later crops, the logarithm of the target's width over its
    height has changed by anything up to `stretch_limit`.
    """

    picture_fraction: float = 0.5
    rotation: float = 0.15
    large_rotation_fraction: float = 0.12
    aspect: float = 0.12
    shear: float = 0.08
    deformation: float = 0.03
    mirrored_fraction: float = 0.04
    scale_jitter: float = 0.4
    centre_jitter: float = 0.55
    uniform_centre_fraction: float = 0.35
    centre_limit: float = 1.5
    template_jitter: float = 0.04
    context_limit: float = 0.35
    distractors: int = 3
    distractor_fraction: float = 0.5
    look_alike_fraction: float = 0.45
    occluder_fraction: float = 0.3
    new_background_fraction: float = 0.15
    absent_fraction: float = 0.08
    border_fraction: float = 0.25
    stretched_fraction: float = 0.0
    stretch_limit: float = 0.7
    photometric: PhotometricConfig = PhotometricConfig()


@dataclass(frozen=True)
class Scenes:
    """A batch of B = P + Q scenes, as one crop of each shows them; picture scenes come first."""

    pictures: Tensor  # (P, 4, 256, 256) pictures, the target's segment as alpha
    cutouts: Tensor  # (Q, 4, 112, 112) targets of the other scenes, with alpha
    growth: Tensor  # (B,) box side over the visible object's, for annotations with context
    # distractors (B, 4, 112, 112) that stay with the target from crop to crop; without any, each
    # crop draws its own
    companions: tuple[Tensor, ...]
    ground: Tensor  # (B, 3, 256, 256) backgrounds
    ground_pose: tuple[Tensor, Tensor]  # angle and logarithmic zoom of the background, each (B,)
    shape: Shape  # how the targets lie
    style: Style  # what all crops of a scene share

    def targets(self) -> list[tuple[slice, Tensor]]:
        """Return the textures of equal size, each with the rows of the batch they belong to."""
        split = len(self.pictures)
        parts = [(slice(0, split), self.pictures), (slice(split, None), self.cutouts)]
        return [(rows, texture) for rows, texture in parts if len(texture)]


@dataclass(frozen=True)
class View:
    """The place of the targets in a batch of B crops."""

    side: int  # side of the crop, pixels
    target: Tensor  # (B,) square root of the target's box area, pixels
    position: Tensor  # (B, 2) x, y of the box's centre from the middle of the crop, pixels
    searching: bool  # whether it is a search crop; otherwise it is a template


class SceneCrops:
    """Draw crops of scenes; a subclass decides which crops make a sample.

    The search factor is the side of a search crop over that of the target; the bank is moved to
    the device once.
    """

    border_fill: BorderFill = "black"
    """What a crop shows beyond the image's border, as the tracker's crops do."""

    def __init__(
        self,
        bank: TextureBank,
        search_size: int,
        search_factor: float,
        device: str | torch.device,
        config: PairConfig,
    ) -> None:
        self.config = config
        self.search_size, self.search_target = search_size, search_size / search_factor
        self.device = torch.device(device)
        self.tiles = torch.from_numpy(bank.tiles).to(self.device)
        self.labels = torch.from_numpy(bank.labels).to(self.device)
        self.cutouts = torch.from_numpy(bank.cutouts).to(self.device)
        self.segment_counts = self.labels.flatten(1).amax(1).long()
        self.with_segments = torch.where(self.segment_counts > 0)[0]

    def _scenes(self, draw: Draw, size: int, companions: int = 0) -> Scenes:
        """Draw scenes as their first crops show them, with so many lasting companions."""
        c = self.config
        split = round(size * c.picture_fraction) if len(self.with_segments) else 0
        tile = self.with_segments[draw.index(split, max(1, len(self.with_segments)))]
        pick = (draw.uniform(split, 0, 1) * self.segment_counts[tile]).long() + 1
        segment = (self.labels[tile] == pick[:, None, None]).float()
        alpha = segment.repeat_interleave(2, 1).repeat_interleave(2, 2)
        pictures = torch.cat([self._tile(tile), alpha[:, None]], 1)
        growth = torch.ones(size, device=self.device)
        growth[:split] = draw.uniform(split, 1, 1 + c.context_limit)
        cutouts, rows = self._cutout(draw, size - split), torch.arange(size, device=self.device)
        lasting = [self._companions(draw, cutouts, split, rows) for _ in range(companions)]
        return Scenes(
            pictures=pictures,
            cutouts=cutouts,
            growth=growth,
            companions=tuple(lasting),
            ground=self._tile(draw.index(size, len(self.tiles))),
            ground_pose=(draw.normal(size, 0.15), draw.normal(size, 0.15)),
            shape=_random_shape(draw, size, 0.12, 0.10, 0.04),
            style=Style.draw(draw, size, c.photometric),
        )

    def _later(self, draw: Draw, scenes: Scenes, first: Shape) -> Scenes:
        """Move on to a later crop: targets differ from the first one, the background moves."""
        c, size = self.config, len(scenes.ground)
        turn = torch.where(draw.chance(size, c.large_rotation_fraction), 3.0, 0.7)
        shape = (
            first[0] + draw.normal(size, c.rotation) * turn,
            first[1] + draw.normal(size, c.aspect),
            first[2] + draw.normal(size, c.shear),
            first[3] ^ draw.chance(size, c.mirrored_fraction),
        )
        if c.stretched_fraction:
            stretch = draw.uniform(size, -c.stretch_limit / 2, c.stretch_limit / 2)
            stretch = stretch * draw.chance(size, c.stretched_fraction)
            shape = (shape[0], shape[1] + stretch, *shape[2:])
        renewed = draw.chance(size, c.new_background_fraction)
        other = self._tile(draw.index(size, len(self.tiles)))
        ground = torch.where(renewed[:, None, None, None], other, scenes.ground)
        angle, zoom = scenes.ground_pose
        pose = (angle + draw.normal(size, 0.06), zoom + draw.normal(size, 0.06))
        return replace(scenes, ground=ground, ground_pose=pose, shape=shape)

    def _search_view(
        self, draw: Draw, size: int, limit: float, jitter: float, even: float, scale: float
    ) -> View:
        """Place targets in search crops; lengths are relative to the target's mean side.

        A share ``even`` of the centres lies anywhere within ``limit``, the others near the middle
        with a standard deviation ``jitter``. ``scale`` is that of the logarithm of the size.
        """
        anywhere = draw.uniform((size, 2), -limit, limit)
        near = draw.normal((size, 2), jitter).clamp(-limit, limit)
        place = torch.where(draw.chance(size, even)[:, None], anywhere, near)
        zoom = torch.exp(draw.normal(size, scale).clamp(-0.9, 0.9))
        side = self.search_target
        return View(self.search_size, side * zoom, side * place, True)

    def _template_view(self, draw: Draw, size: int, side: int, target: float) -> View:
        """Place targets in the middle of templates of some side, nearly; lengths in pixels."""
        jitter = self.config.template_jitter
        scale = torch.exp(draw.normal(size, jitter))
        return View(side, target * scale, draw.normal((size, 2), jitter * target), False)

    def _search_crop(
        self, draw: Draw, scenes: Scenes, limit: float, jitter: float, even: float, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draw a search crop, in a share of which the target is absent.

        Places are those of `_search_view`, results those of `_crop`.
        """
        size = len(scenes.ground)
        absent = draw.chance(size, self.config.absent_fraction)
        view = self._search_view(draw, size, limit, jitter, even, scale)
        view = self._without_target(view, absent, scenes)
        image, boxes, seen = self._crop(draw, view, scenes, absent)
        return image, boxes, seen & ~absent

    def _without_target(self, view: View, absent: Tensor, scenes: Scenes) -> View:
        """Look beside absent targets of picture scenes; in cut-out scenes they are not drawn."""
        split = len(scenes.pictures)
        away = absent & (torch.arange(len(absent), device=self.device) < split)
        sign = torch.where(view.position >= 0, 1.0, -1.0) * view.target[:, None]
        position = torch.where(away[:, None], view.position + 3.2 * sign, view.position)
        return replace(view, position=position)

    def _tile(self, index: Tensor) -> Tensor:
        return planar(self.tiles[index])

    def _cutout(self, draw: Draw, count: int) -> Tensor:
        return planar(self.cutouts[draw.index(count, len(self.cutouts))])

    def _crop(
        self, draw: Draw, view: View, scenes: Scenes, absent: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draw a crop of each scene, without the targets of cut-out scenes that are ``absent``.

        Returns:
            Images (B, 3, S, S), boxes (B, 4) xywh in pixels, and (B,) bool: in sight.
        """
        size, side, split = len(scenes.ground), view.side, len(scenes.pictures)
        zoom = torch.exp(scenes.ground_pose[1]) * max(0.85, side / TILE)
        drift = draw.normal((size, 2), 0.10 * self.search_size)
        pose = linear_pose(scenes.ground_pose[0], scale=zoom)
        image = warp(scenes.ground, pose, drift, (side, side), padding="reflection")
        alpha = torch.zeros(size, side, side, device=self.device)
        layers = []
        for rows, texture in scenes.targets():
            layers.append(self._target_layer(draw, texture, scenes, view, rows))
            alpha[rows] = layers[-1][:, 3]
        boxes, found = mask_boxes(alpha > 0.5)
        boxes = _grow_boxes(boxes, scenes.growth)
        if split:
            picture, inside = layers[0][:, :3], layers[0][:, 4:]
            image[:split] = torch.lerp(image[:split], picture, inside)
        image = self._distractors(draw, image, view, scenes, boxes)
        if split < size:
            layer = relight(draw, layers[-1][:, :4], scenes.style)
            cover = None if absent is None else (~absent[split:]).float()
            image[split:] = composite(image[split:], layer, cover)
        visible = torch.ones(size, device=self.device)
        if view.searching:
            image, visible = self._occlude(draw, image, view, boxes, alpha > 0.5)
        image = develop(draw, image, scenes.style)
        image, boxes, kept = cut_at_borders(
            draw, image, boxes, self.config.border_fraction, self.border_fill
        )
        return image, boxes, found & kept & (visible > 0.12)

    def _target_layer(
        self, draw: Draw, texture: Tensor, scenes: Scenes, view: View, rows: slice
    ) -> Tensor:
        """Draw the targets of some rows, deformed in a search crop, where the view has them.

        Returns:
            (B, 4, S, S) RGB and alpha; for pictures (B, 5, S, S), the fifth channel 1 inside them.
        """
        count, is_picture = len(texture), texture.shape[-1] == TILE
        angle, log_aspect, shear, mirrored = scenes.shape
        linear, centre, scale = fit_pose(
            texture[:, 3, ::2, ::2] > 0.5,
            (angle[rows], log_aspect[rows], shear[rows], mirrored[rows]),
            view.target[rows] / scenes.growth[rows],
            view.position[rows],
        )
        flow = None
        if view.searching:
            # The template stays rigid: its crop is cut to the box exactly, as when tracking.
            amount = draw.uniform(count, 0, 2) * view.target[rows] / scale
            flow = draw.normal((count, 2, FLOW_CELLS, FLOW_CELLS), self.config.deformation)
            flow = flow * amount[:, None, None, None]
        if is_picture:
            texture = torch.cat([texture, torch.ones_like(texture[:, :1])], 1)
        return warp(texture, linear, centre, (view.side, view.side), flow)

    def _distractors(
        self, draw: Draw, image: Tensor, view: View, scenes: Scenes, boxes: Tensor
    ) -> Tensor:
        """Lay other objects, some of them look-alikes of the target, beside the target."""
        c = self.config
        chance = c.distractor_fraction if view.searching else c.distractor_fraction / 2
        for number in range(c.distractors if view.searching else 1):
            rows = torch.where(draw.chance(len(image), chance))[0]
            count = len(rows)
            if not count:
                continue
            if scenes.companions:
                objects = scenes.companions[number][rows]
            else:
                split = len(scenes.pictures)
                objects = self._companions(draw, scenes.cutouts, split, rows)
            angle = draw.uniform(count, 0, 2 * math.pi)
            distance = draw.uniform(count, 0.9, 2.0) * view.target[rows]
            offset = torch.stack([torch.cos(angle), torch.sin(angle)], -1) * distance[:, None]
            place = _centres_in_view(boxes[rows], view.side) + offset
            layer = self._place(draw, objects, view, rows, place, (0.6, 1.3))
            image[rows] = composite(image[rows], layer)
        return image

    def _companions(self, draw: Draw, cutouts: Tensor, split: int, rows: Tensor) -> Tensor:
        """Draw distractors (R, 4, 112, 112) for some scenes, some of them look-alikes."""
        objects = self._cutout(draw, len(rows))
        chosen = draw.chance(len(rows), self.config.look_alike_fraction)
        alike = torch.where(chosen & (rows >= split))[0]
        if len(alike):
            objects[alike] = disguise(draw, cutouts[rows[alike] - split])
        return objects

    def _occlude(
        self, draw: Draw, image: Tensor, view: View, boxes: Tensor, shown: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Lay occluders over targets. Returns the images and the visible share (B,) of each."""
        visible = torch.ones(len(image), device=self.device)
        rows = torch.where(draw.chance(len(image), self.config.occluder_fraction))[0]
        count = len(rows)
        if not count:
            return image, visible
        objects = self._cutout(draw, count)
        bars = torch.where(draw.chance(count, 0.4))[0]
        if len(bars):
            edge, width = CUTOUT // 8, CUTOUT // 5
            picture = self._tile(draw.index(len(bars), len(self.tiles)))
            objects[bars, :3] = picture[:, :, :CUTOUT, :CUTOUT]
            objects[bars, 3] = 0
            objects[bars, 3, edge:-edge, width:-width] = 1
        place = _centres_in_view(boxes[rows], view.side)
        place = place + draw.normal((count, 2), 0.45) * boxes[rows, 2:]
        layer = self._place(draw, objects, view, rows, place, (0.5, 1.2))
        hidden = (shown[rows] & (layer[:, 3] > 0.5)).sum((1, 2))
        visible[rows] = 1 - hidden / shown[rows].sum((1, 2)).clamp(min=1)
        image[rows] = composite(image[rows], layer)
        return image, visible

    def _place(
        self,
        draw: Draw,
        objects: Tensor,
        view: View,
        rows: Tensor,
        place: Tensor,
        sizes: tuple[float, float],
    ) -> Tensor:
        """Draw objects at ``place`` (B, 2), with a side of ``sizes`` times the target's."""
        shape = _random_shape(draw, len(rows), 0.3, 0.12, 0.08)
        wanted = view.target[rows] * draw.uniform(len(rows), *sizes)
        linear, centre, _ = fit_pose(objects[:, 3, ::2, ::2] > 0.5, shape, wanted, place)
        return warp(objects, linear, centre, (view.side, view.side))


def _random_shape(draw: Draw, count: int, angle: float, aspect: float, shear: float) -> Shape:
    """Draw poses with these standard deviations; half of them are mirrored."""
    parts = (draw.normal(count, deviation) for deviation in (angle, aspect, shear))
    return (*parts, draw.chance(count, 0.5))  # type: ignore[return-value]


def _grow_boxes(boxes: Tensor, factor: Tensor) -> Tensor:
    """Scale boxes (B, 4) xywh about their centres by ``factor`` (B,)."""
    side = boxes[:, 2:] * factor[:, None]
    return torch.cat([boxes[:, :2] - (side - boxes[:, 2:]) / 2, side], 1)


def _centres_in_view(boxes: Tensor, side: int) -> Tensor:
    """Return centres (B, 2) of boxes (B, 4) xywh, pixels from the middle of a view."""
    return xywh_to_cxcywh(boxes)[:, :2] - side / 2
