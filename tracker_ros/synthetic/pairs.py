# SPDX-License-Identifier: Apache-2.0
"""Training pairs: a template crop and a search crop of one target, drawn from a texture bank.

Two kinds are mixed. In *picture pairs* both crops are differently warped views of one picture and
the target is one of its segments with the context around it. In *cut-out pairs* an object is laid
over another picture, which moves on its own. Both get look-alikes, occluders, elastic deformation,
light, shade, blur, noise and image borders; in some search crops the target is absent.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tracker_ros.synthetic import photometric
from tracker_ros.synthetic.crops import PairConfig, SceneCrops
from tracker_ros.synthetic.draw import Draw
from tracker_ros.synthetic.placement import View
from tracker_ros.synthetic.textures import TextureBank


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


class PairGenerator(SceneCrops):
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
        super().__init__(bank, search_size, device, config)
        self.template_size = template_size
        self.template_target = template_size / template_factor
        self.search_target = search_size / search_factor

    def batch(self, size: int, seed: int) -> PairBatch:
        """Draw ``size`` pairs. The same seed gives the same pairs on the same kind of device."""
        draw, c = Draw(self.device, seed), self.config
        targets = self._targets(draw, size)
        ground = self._tile(draw.index(size, len(self.tiles)))
        ground_pose = (draw.normal(size, 0.15), draw.normal(size, 0.15))
        first = self._first_shape(draw, size)
        style = photometric.Style.draw(draw, size, c.photometric)
        template, template_boxes, _ = self._crop(
            draw, self._template_view(draw, size), targets, first, ground, ground_pose, style
        )
        second = self._changed_shape(draw, first)
        ground, ground_pose = self._changed_ground(draw, ground, ground_pose)
        absent = draw.chance(size, c.absent_fraction)
        view = self._without_target(self._search_view(draw, size), absent, len(targets.pictures))
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
