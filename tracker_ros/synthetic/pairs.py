# SPDX-License-Identifier: Apache-2.0
"""Training pairs: a template crop and a search crop of one target, drawn from a texture bank.

Two kinds are mixed. In *picture pairs* both crops are differently warped views of one picture and
the target is one of its segments with the context around it. In *cut-out pairs* an object is laid
over another picture, which moves on its own. Both get look-alikes, occluders, elastic deformation,
light, shade, blur, noise and image borders; in some search crops the target is absent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tracker_ros.synthetic import photometric
from tracker_ros.synthetic.draw import Draw
from tracker_ros.synthetic.placement import (
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
class PairBatch:
    """A batch of training pairs.

    Attributes:
        template: (B, 3, t, t) float in [0, 1], RGB; the target in the middle.
        template_boxes: (B, 4) x, y, w, h of the target in it, fractions of its side.
        search: (B, 3, s, s) float in [0, 1], RGB.
        boxes: (B, 4) x, y, w, h of the target in the search crop, fractions of its side.
        present: (B,) bool; False where the target is out of sight (its box means nothing then).
    """

    template: Tensor
    template_boxes: Tensor
    search: Tensor
    boxes: Tensor
    present: Tensor


@dataclass(frozen=True)
class _Targets:
    """The targets of a batch: picture pairs first, then cut-out pairs.

    Attributes:
        pictures: (P, 4, 256, 256) pictures, the target's segment as alpha.
        cutouts: (Q, 4, 112, 112) objects with alpha.
        growth: (P + Q,) box side over the visible object's, for annotations with context.
    """

    pictures: Tensor
    cutouts: Tensor
    growth: Tensor

    def parts(self) -> list[tuple[slice, Tensor]]:
        """The textures of equal size and the rows of the batch they belong to."""
        split = len(self.pictures)
        parts = [(slice(0, split), self.pictures), (slice(split, None), self.cutouts)]
        return [(rows, texture) for rows, texture in parts if len(texture)]


FLOW_CELLS = 7
"""Side of the coarse displacement field that deforms a target across the search crop."""


class PairGenerator:
    """Draws :class:`PairBatch` objects, each a function of its seed alone.

    Args:
        bank: Material; moved to ``device`` once.
        template_size: Side of the template crop, pixels.
        search_size: Side of the search crop, pixels.
        template_factor: Crop side over target side.
        search_factor: The same for the search crop.
        device: Where to draw.
        config: How pairs vary.
    """

    def __init__(
        self,
        bank: TextureBank,
        template_size: int,
        search_size: int,
        template_factor: float = 2.0,
        search_factor: float = 4.0,
        device: str | torch.device = "cpu",
        config: PairConfig | None = None,
    ) -> None:
        self.config = config or PairConfig()
        self.device = torch.device(device)
        self.tiles = torch.from_numpy(bank.tiles).to(self.device)
        self.labels = torch.from_numpy(bank.labels).to(self.device)
        self.cutouts = torch.from_numpy(bank.cutouts).to(self.device)
        self.segment_counts = self.labels.flatten(1).amax(1).long()
        self.with_segments = torch.where(self.segment_counts > 0)[0]
        self.template_size, self.search_size = template_size, search_size
        self.template_target = template_size / template_factor
        self.search_target = search_size / search_factor

    def batch(self, size: int, seed: int) -> PairBatch:
        """Draw ``size`` pairs. The same seed gives the same pairs on the same kind of device."""
        draw, c = Draw(self.device, seed), self.config
        targets = self._targets(draw, size)
        split = len(targets.pictures)
        ground = self._tile(draw.index(size, len(self.tiles)))
        ground_pose = (draw.normal(size, 0.15), draw.normal(size, 0.15))
        first: Shape = (
            draw.normal(size, 0.12),
            draw.normal(size, 0.10),
            draw.normal(size, 0.04),
            draw.chance(size, 0.5),
        )
        style = photometric.Style.draw(draw, size, c.photometric)
        template, template_boxes, _ = self._crop(
            draw, self._template_view(draw, size), targets, first, ground, ground_pose, style
        )
        turn = torch.where(draw.chance(size, c.large_rotation_fraction), 3.0, 0.7)
        second: Shape = (
            first[0] + draw.normal(size, c.rotation) * turn,
            first[1] + draw.normal(size, c.aspect),
            first[2] + draw.normal(size, c.shear),
            first[3] ^ draw.chance(size, c.mirrored_fraction),
        )
        renewed = draw.chance(size, c.new_background_fraction)
        other = self._tile(draw.index(size, len(self.tiles)))
        ground = torch.where(renewed[:, None, None, None], other, ground)
        ground_pose = (
            ground_pose[0] + draw.normal(size, 0.06),
            ground_pose[1] + draw.normal(size, 0.06),
        )
        absent = draw.chance(size, c.absent_fraction)
        view = self._search_view(draw, size)
        # An absent target is left out of a cut-out pair; a picture pair looks beside it.
        away = absent & (torch.arange(size, device=self.device) < split)
        sign = torch.where(view.position >= 0, 1.0, -1.0) * view.target[:, None]
        position = torch.where(away[:, None], view.position + 3.2 * sign, view.position)
        view = View(view.side, view.target, position, True)
        search, boxes, seen = self._crop(
            draw, view, targets, second, ground, ground_pose, style, absent
        )
        return PairBatch(
            template,
            template_boxes / self.template_size,
            search,
            boxes / self.search_size,
            seen & ~absent,
        )

    def _template_view(self, draw: Draw, size: int) -> View:
        jitter, side = self.config.template_jitter, self.template_target
        return View(
            self.template_size,
            side * torch.exp(draw.normal(size, jitter)),
            draw.normal((size, 2), jitter * side),
            False,
        )

    def _search_view(self, draw: Draw, size: int) -> View:
        c = self.config
        even = draw.uniform((size, 2), -c.centre_limit, c.centre_limit)
        near = draw.normal((size, 2), c.centre_jitter).clamp(-c.centre_limit, c.centre_limit)
        place = torch.where(draw.chance(size, c.uniform_centre_fraction)[:, None], even, near)
        scale = torch.exp(draw.normal(size, c.scale_jitter).clamp(-0.9, 0.9))
        return View(self.search_size, self.search_target * scale, place * self.search_target, True)

    def _tile(self, index: Tensor) -> Tensor:
        """Tiles as (B, 3, 256, 256) float in [0, 1]."""
        return self.tiles[index].permute(0, 3, 1, 2).float() / 255

    def _cutout(self, draw: Draw, count: int) -> Tensor:
        """Random cut-outs as (count, 4, 112, 112) float in [0, 1]."""
        index = draw.index(count, len(self.cutouts))
        return self.cutouts[index].permute(0, 3, 1, 2).float() / 255

    def _targets(self, draw: Draw, size: int) -> _Targets:
        c = self.config
        split = round(size * c.picture_fraction) if len(self.with_segments) else 0
        tile = self.with_segments[draw.index(split, max(1, len(self.with_segments)))]
        pick = (draw.uniform(split, 0, 1) * self.segment_counts[tile]).long() + 1
        segment = (self.labels[tile] == pick[:, None, None]).float()
        alpha = segment.repeat_interleave(2, 1).repeat_interleave(2, 2)
        growth = torch.ones(size, device=self.device)
        growth[:split] = draw.uniform(split, 1, 1 + c.context_limit)
        return _Targets(
            torch.cat([self._tile(tile), alpha[:, None]], 1),
            self._cutout(draw, size - split),
            growth,
        )

    def _crop(
        self,
        draw: Draw,
        view: View,
        targets: _Targets,
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
        image, boxes, kept = cut_at_borders(draw, image, boxes, self.config.border_fraction)
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
        self, draw: Draw, image: Tensor, view: View, targets: _Targets, boxes: Tensor
    ) -> Tensor:
        """Lay other objects, some of them look-alikes of the target, beside the target."""
        c, split = self.config, len(targets.pictures)
        chance = c.distractor_fraction if view.searching else c.distractor_fraction / 2
        for _ in range(c.distractors if view.searching else 1):
            rows = torch.where(draw.chance(len(image), chance))[0]
            count = len(rows)
            if not count:
                continue
            objects = self._cutout(draw, count)
            alike = torch.where(draw.chance(count, c.look_alike_fraction) & (rows >= split))[0]
            if len(alike):
                objects[alike] = photometric.disguise(draw, targets.cutouts[rows[alike] - split])
            angle = draw.uniform(count, 0, 2 * math.pi)
            distance = draw.uniform(count, 0.9, 2.0) * view.target[rows]
            offset = torch.stack([torch.cos(angle), torch.sin(angle)], -1) * distance[:, None]
            place = centres_in_view(boxes[rows], view.side) + offset
            layer = self._place(draw, objects, view, rows, place, (0.6, 1.3))
            image[rows] = composite(image[rows], layer)
        return image

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
