# SPDX-License-Identifier: Apache-2.0
"""Training clips: several crops of one target, some to learn it from, the rest to find it in.

The scenes are those of the pairs (`crops.py`). Distractors stay with a target from crop to crop,
so that a filter which has seen one beside the target can tell it apart later.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tracker_ros.synthetic import photometric
from tracker_ros.synthetic.crops import PairConfig, SceneCrops
from tracker_ros.synthetic.draw import Draw
from tracker_ros.synthetic.placement import View
from tracker_ros.synthetic.textures import TextureBank


@dataclass(frozen=True)
class ClipConfig:
    """Crops of a clip, and where the target lies in them.

    Attributes:
        train_crops: Crops that the target is learned from; it is visible in each.
        test_crops: Crops that it is sought in.
        train_centre: Largest distance of its centre from the crop's, target sides, along an axis.
        train_scale: Standard deviation of the logarithm of its size.
        test_centre: As above, for the crops that it is sought in. Half of the targets lie anywhere
            within it, the others near the middle.
        test_scale: As above.
    """

    train_crops: int = 2
    test_crops: int = 2
    train_centre: float = 1.2
    train_scale: float = 0.2
    test_centre: float = 1.6
    test_scale: float = 0.35


@dataclass(frozen=True)
class ClipBatch:
    """A batch of clips of T crops each.

    Attributes:
        images: (B, T, 3, S, S) float in [0, 1], RGB; those to learn from come first.
        boxes: (B, T, 4) x, y, w, h of the target, crop pixels.
        present: (B, T) bool; False where the target is out of sight (its box means nothing then).
        train_crops: How many crops are there to learn from.
    """

    images: Tensor
    boxes: Tensor
    present: Tensor
    train_crops: int


class ClipGenerator(SceneCrops):
    """Draws :class:`ClipBatch` objects, each a function of its seed alone.

    Args:
        bank: Material; moved to ``device`` once.
        size: Side of the crops, pixels.
        factor: Crop side over target side.
        device: Where to draw.
        scenes: How scenes vary.
        config: Number of crops, and the target's place in them.
    """

    border_fill = "edge"

    def __init__(
        self,
        bank: TextureBank,
        size: int,
        factor: float = 4.0,
        device: str | torch.device = "cpu",
        scenes: PairConfig | None = None,
        config: ClipConfig | None = None,
    ) -> None:
        super().__init__(bank, size, device, scenes)
        self.clips = config or ClipConfig()
        self.target_side = size / factor

    def batch(self, size: int, seed: int) -> ClipBatch:
        """Draw ``size`` clips. The same seed gives the same clips on the same kind of device."""
        draw, c = Draw(self.device, seed), self.clips
        targets = self._targets(draw, size)
        everything = torch.arange(size, device=self.device)
        companions = [
            self._companions(draw, targets, everything) for _ in range(self.config.distractors)
        ]
        targets = replace(targets, companions=tuple(companions))
        ground = self._tile(draw.index(size, len(self.tiles)))
        pose = (draw.normal(size, 0.15), draw.normal(size, 0.15))
        first = self._first_shape(draw, size)
        style = photometric.Style.draw(draw, size, self.config.photometric)
        view = self._train_view(draw, size, searching=False)
        crops = [self._crop(draw, view, targets, first, ground, pose, style)]
        for number in range(1, c.train_crops + c.test_crops):
            shape = self._changed_shape(draw, first)
            ground, pose = self._changed_ground(draw, ground, pose)
            if number < c.train_crops:
                view = self._train_view(draw, size, searching=True)
                crop = self._crop(draw, view, targets, shape, ground, pose, style)
                crops.append(self._visible_or_first(crop, crops[0]))
                continue
            absent = draw.chance(size, self.config.absent_fraction)
            view = self._test_view(draw, size)
            view = self._without_target(view, absent, len(targets.pictures))
            image, boxes, seen = self._crop(
                draw, view, targets, shape, ground, pose, style, absent
            )
            crops.append((image, boxes, seen & ~absent))
        images, boxes, present = (torch.stack(part, 1) for part in zip(*crops, strict=True))
        return ClipBatch(images, boxes, present, c.train_crops)

    def _train_view(self, draw: Draw, size: int, searching: bool) -> View:
        c = self.clips
        limit = c.train_centre if searching else c.train_centre / 2
        place = draw.uniform((size, 2), -limit, limit)
        scale = torch.exp(draw.normal(size, c.train_scale).clamp(-0.9, 0.9))
        side = self.target_side
        return View(self.search_size, side * scale, side * place, searching)

    def _test_view(self, draw: Draw, size: int) -> View:
        limit, side = self.clips.test_centre, self.target_side
        even = draw.uniform((size, 2), -limit, limit)
        near = draw.normal((size, 2), limit / 3).clamp(-limit, limit)
        place = torch.where(draw.chance(size, 0.5)[:, None], even, near)
        scale = torch.exp(draw.normal(size, self.clips.test_scale).clamp(-0.9, 0.9))
        return View(self.search_size, side * scale, side * place, True)

    @staticmethod
    def _visible_or_first(
        crop: tuple[Tensor, Tensor, Tensor], first: tuple[Tensor, Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Show the first crop again where the target of a later one is out of sight."""
        seen = crop[2]
        return (
            torch.where(seen[:, None, None, None], crop[0], first[0]),
            torch.where(seen[:, None], crop[1], first[1]),
            first[2],
        )
