# SPDX-License-Identifier: Apache-2.0
"""Crops of scenes drawn from a texture bank: what pairs and clips have in common.

A scene has a target over a background. The target is either a segment of a picture, which is then
its surroundings too, or a cut-out laid over a picture that moves on its own. Every crop of a scene
gets other distractors or the scene's own, occluders, elastic deformation, light, shade, blur,
noise and image borders.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from tracker_ros.synthetic import photometric
from tracker_ros.synthetic.draw import Draw
from tracker_ros.synthetic.placement import (
    BorderFill,
    Shape,
    View,
    centres_in_view,
    cut_at_borders,
    fit_pose,
    grow_boxes,
)
from tracker_ros.synthetic.render import composite, linear_pose, mask_boxes, warp
from tracker_ros.synthetic.textures import CUTOUT, TILE, TextureBank


@dataclass(frozen=True)
class PairConfig:
    """How pairs vary. Fractions are probabilities, the rest standard deviations unless it says so.

    Lengths are relative to the target's side in the crop (the square root of its box area).
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
    photometric: photometric.PhotometricConfig = field(
        default_factory=photometric.PhotometricConfig
    )


@dataclass(frozen=True)
class Targets:
    """The targets of a batch: picture pairs first, then cut-out pairs.

    Attributes:
        pictures: (P, 4, 256, 256) pictures, the target's segment as alpha.
        cutouts: (Q, 4, 112, 112) objects with alpha.
        growth: (P + Q,) box side over the visible object's, for annotations with context.
        companions: Distractors (P + Q, 4, 112, 112) that stay with the target from crop to crop;
            without any, each crop draws its own.
    """

    pictures: Tensor
    cutouts: Tensor
    growth: Tensor
    companions: tuple[Tensor, ...] = ()

    def parts(self) -> list[tuple[slice, Tensor]]:
        """The textures of equal size and the rows of the batch they belong to."""
        split = len(self.pictures)
        parts = [(slice(0, split), self.pictures), (slice(split, None), self.cutouts)]
        return [(rows, texture) for rows, texture in parts if len(texture)]


FLOW_CELLS = 7
"""Side of the coarse displacement field that deforms a target across the search crop."""


class SceneCrops:
    """Draws crops of scenes; what a batch of them is made of is the subclass's business.

    Args:
        bank: Material; moved to ``device`` once.
        search_size: Side of a search crop, pixels.
        device: Where to draw.
        config: How scenes vary.
    """

    border_fill: BorderFill = "black"
    """What a crop shows beyond the image's border; the same that the tracker's crops show."""

    def __init__(
        self,
        bank: TextureBank,
        search_size: int,
        device: str | torch.device,
        config: PairConfig | None,
    ) -> None:
        self.config = config or PairConfig()
        self.search_size = search_size
        self.device = torch.device(device)
        self.tiles = torch.from_numpy(bank.tiles).to(self.device)
        self.labels = torch.from_numpy(bank.labels).to(self.device)
        self.cutouts = torch.from_numpy(bank.cutouts).to(self.device)
        self.segment_counts = self.labels.flatten(1).amax(1).long()
        self.with_segments = torch.where(self.segment_counts > 0)[0]

    def _first_shape(self, draw: Draw, size: int) -> Shape:
        """How targets lie in the first crop."""
        return (
            draw.normal(size, 0.12),
            draw.normal(size, 0.10),
            draw.normal(size, 0.04),
            draw.chance(size, 0.5),
        )

    def _changed_shape(self, draw: Draw, first: Shape) -> Shape:
        """How they lie in a later one."""
        c, size = self.config, len(first[0])
        turn = torch.where(draw.chance(size, c.large_rotation_fraction), 3.0, 0.7)
        return (
            first[0] + draw.normal(size, c.rotation) * turn,
            first[1] + draw.normal(size, c.aspect),
            first[2] + draw.normal(size, c.shear),
            first[3] ^ draw.chance(size, c.mirrored_fraction),
        )

    def _changed_ground(
        self, draw: Draw, ground: Tensor, pose: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The background of a later crop: moved, or another one."""
        size = len(ground)
        renewed = draw.chance(size, self.config.new_background_fraction)
        other = self._tile(draw.index(size, len(self.tiles)))
        ground = torch.where(renewed[:, None, None, None], other, ground)
        return ground, (pose[0] + draw.normal(size, 0.06), pose[1] + draw.normal(size, 0.06))

    def _without_target(self, view: View, absent: Tensor, split: int) -> View:
        """Look beside absent targets of picture scenes; those of cut-out scenes are left out."""
        away = absent & (torch.arange(len(absent), device=self.device) < split)
        sign = torch.where(view.position >= 0, 1.0, -1.0) * view.target[:, None]
        position = torch.where(away[:, None], view.position + 3.2 * sign, view.position)
        return replace(view, position=position)

    def _tile(self, index: Tensor) -> Tensor:
        """Tiles as (B, 3, 256, 256) float in [0, 1]."""
        return self.tiles[index].permute(0, 3, 1, 2).float() / 255

    def _cutout(self, draw: Draw, count: int) -> Tensor:
        """Random cut-outs as (count, 4, 112, 112) float in [0, 1]."""
        index = draw.index(count, len(self.cutouts))
        return self.cutouts[index].permute(0, 3, 1, 2).float() / 255

    def _targets(self, draw: Draw, size: int) -> Targets:
        c = self.config
        split = round(size * c.picture_fraction) if len(self.with_segments) else 0
        tile = self.with_segments[draw.index(split, max(1, len(self.with_segments)))]
        pick = (draw.uniform(split, 0, 1) * self.segment_counts[tile]).long() + 1
        segment = (self.labels[tile] == pick[:, None, None]).float()
        alpha = segment.repeat_interleave(2, 1).repeat_interleave(2, 2)
        growth = torch.ones(size, device=self.device)
        growth[:split] = draw.uniform(split, 1, 1 + c.context_limit)
        return Targets(
            torch.cat([self._tile(tile), alpha[:, None]], 1),
            self._cutout(draw, size - split),
            growth,
        )

    def _crop(
        self,
        draw: Draw,
        view: View,
        targets: Targets,
        shape: Shape,
        ground: Tensor,
        ground_pose: tuple[Tensor, Tensor],
        style: photometric.Style,
        absent: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draw one crop: (B, 3, S, S), boxes (B, 4) xywh in pixels, seen (B,) bool."""
        size, side = len(ground), view.side
        zoom = torch.exp(ground_pose[1]) * max(0.85, side / TILE)
        none = torch.zeros(size, device=self.device)
        drift = draw.normal((size, 2), 0.10 * self.search_size)
        pose = linear_pose(ground_pose[0], none, none, none > 0, zoom)
        image = warp(ground, pose, drift, (side, side), padding="reflection")
        alpha = torch.zeros(size, side, side, device=self.device)
        layers = []
        for rows, texture in targets.parts():
            part = (shape[0][rows], shape[1][rows], shape[2][rows], shape[3][rows])
            layer = self._target_layer(draw, texture, part, view, rows, targets.growth[rows])
            layers.append(layer)
            alpha[rows] = layer[:, 3]
        boxes, found = mask_boxes(alpha > 0.5)
        boxes = grow_boxes(boxes, targets.growth)
        split = len(targets.pictures)
        if split:
            picture, inside = layers[0][:, :3], layers[0][:, 4:]
            image[:split] = torch.lerp(image[:split], picture, inside)
        image = self._distractors(draw, image, view, targets, boxes)
        if split < size:
            layer = photometric.relight(draw, layers[-1][:, :4], style)
            cover = None if absent is None else (~absent[split:]).float()
            image[split:] = composite(image[split:], layer, cover)
        visible = torch.ones(size, device=self.device)
        if view.searching:
            image, visible = self._occlude(draw, image, view, boxes, alpha > 0.5)
        image = photometric.develop(draw, image, style)
        image, boxes, kept = cut_at_borders(
            draw, image, boxes, self.config.border_fraction, self.border_fill
        )
        return image, boxes, found & kept & (visible > 0.12)

    def _target_layer(
        self,
        draw: Draw,
        texture: Tensor,
        shape: Shape,
        view: View,
        rows: slice,
        growth: Tensor,
    ) -> Tensor:
        """Draw targets, deformed in the search crop, at the size and place the view wants.

        Returns:
            (B, 4, S, S) RGB and alpha; for pictures (B, 5, S, S), the fifth channel 1 inside them.
        """
        count, is_picture = len(texture), texture.shape[-1] == TILE
        linear, centre, scale = fit_pose(
            texture[:, 3, ::2, ::2] > 0.5,
            shape,
            view.target[rows] / growth,
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
        self, draw: Draw, image: Tensor, view: View, targets: Targets, boxes: Tensor
    ) -> Tensor:
        """Lay other objects, some of them look-alikes of the target, beside the target."""
        c = self.config
        chance = c.distractor_fraction if view.searching else c.distractor_fraction / 2
        for number in range(c.distractors if view.searching else 1):
            rows = torch.where(draw.chance(len(image), chance))[0]
            count = len(rows)
            if not count:
                continue
            if targets.companions:
                objects = targets.companions[number][rows]
            else:
                objects = self._companions(draw, targets, rows)
            angle = draw.uniform(count, 0, 2 * math.pi)
            distance = draw.uniform(count, 0.9, 2.0) * view.target[rows]
            offset = torch.stack([torch.cos(angle), torch.sin(angle)], -1) * distance[:, None]
            place = centres_in_view(boxes[rows], view.side) + offset
            layer = self._place(draw, objects, view, rows, place, (0.6, 1.3))
            image[rows] = composite(image[rows], layer)
        return image

    def _companions(self, draw: Draw, targets: Targets, rows: Tensor) -> Tensor:
        """Distractors (R, 4, 112, 112) for some scenes, some of them look-alikes."""
        split = len(targets.pictures)
        objects = self._cutout(draw, len(rows))
        chosen = draw.chance(len(rows), self.config.look_alike_fraction)
        alike = torch.where(chosen & (rows >= split))[0]
        if len(alike):
            objects[alike] = photometric.disguise(draw, targets.cutouts[rows[alike] - split])
        return objects

    def _occlude(
        self, draw: Draw, image: Tensor, view: View, boxes: Tensor, shown: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Lay occluders over part of the target; also the fraction (B,) of it still visible."""
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
        place = centres_in_view(boxes[rows], view.side)
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
        count = len(rows)
        shape = (
            draw.normal(count, 0.3),
            draw.normal(count, 0.12),
            draw.normal(count, 0.08),
            draw.chance(count, 0.5),
        )
        wanted = view.target[rows] * draw.uniform(count, *sizes)
        linear, centre, _ = fit_pose(objects[:, 3, ::2, ::2] > 0.5, shape, wanted, place)
        return warp(objects, linear, centre, (view.side, view.side))
