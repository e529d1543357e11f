# SPDX-License-Identifier: Apache-2.0
"""Draw training pairs and training clips from a texture bank.

A pair is a template crop and a search crop of one target. A clip is several crops of one target,
some to learn it from, some to find it in; distractors stay with the target from crop to crop, so
that a filter which has seen one beside the target can tell it apart later. In some of the crops to
search the target is absent.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tracker_ros.synthetic.crops import PairConfig, SceneCrops, View
from tracker_ros.synthetic.render import BorderFill, Draw
from tracker_ros.synthetic.textures import TextureBank


@dataclass(frozen=True)
class PairBatch:
    """A batch of training pairs."""

    template: Tensor  # (B, 3, t, t) float in [0, 1], RGB; the target in the middle
    template_boxes: Tensor  # (B, 4) x, y, w, h of the target in it, fractions of its side
    search: Tensor  # (B, 3, s, s) float in [0, 1], RGB
    boxes: Tensor  # (B, 4) x, y, w, h of the target in the search crop, fractions of its side
    # (B,) bool; False where the target is out of sight (its box means nothing then)
    present: Tensor


class PairGenerator(SceneCrops):
    """Draw :class:`PairBatch` objects, each a function of its seed alone.

    Sizes are the sides of the crops in pixels, factors their sides over that of the target.
    """

    def __init__(
        self,
        bank: TextureBank,
        template_size: int,
        search_size: int,
        template_factor: float = 2.0,
        search_factor: float = 4.0,
        device: str | torch.device = "cpu",
        config: PairConfig = PairConfig(),  # noqa: B008  (immutable)
    ) -> None:
        super().__init__(bank, search_size, search_factor, device, config)
        self.template_size = template_size
        self.template_target = template_size / template_factor

    def batch(self, size: int, seed: int) -> PairBatch:
        """Draw ``size`` pairs. The same seed gives the same pairs on the same kind of device."""
        draw, c = Draw(self.device, seed), self.config
        scenes = self._scenes(draw, size)
        view = self._template_view(draw, size, self.template_size, self.template_target)
        template, template_boxes, _ = self._crop(draw, view, scenes)
        scenes = self._later(draw, scenes, scenes.shape)
        search, boxes, present = self._search_crop(
            draw, scenes, c.centre_limit, c.centre_jitter, c.uniform_centre_fraction,
            c.scale_jitter,
        )  # fmt: skip
        template_boxes = template_boxes / self.template_size
        return PairBatch(template, template_boxes, search, boxes / self.search_size, present)


@dataclass(frozen=True)
class ClipConfig:
    """The crops of a clip, and where the target lies in them."""

    train_crops: int = 2  # number of crops to learn the target from; it is visible in each
    test_crops: int = 2  # number of crops to find it in
    # largest distance of its centre from the crop's, target sides, along an axis
    train_centre: float = 1.2
    train_scale: float = 0.2  # standard deviation of the logarithm of its size
    # the same for the crops to find it in. Half of the targets lie anywhere within it, the others
    # near the middle.
    test_centre: float = 1.6
    test_scale: float = 0.35  # the same as `train_scale`, for the crops to find it in


@dataclass(frozen=True)
class ClipBatch:
    """A batch of clips of T crops each."""

    images: Tensor  # (B, T, 3, S, S) float in [0, 1], RGB; those to learn from come first
    boxes: Tensor  # (B, T, 4) x, y, w, h of the target, crop pixels
    # (B, T) bool; False where the target is out of sight (its box means nothing then)
    present: Tensor
    train_crops: int  # number of crops to learn from


class ClipGenerator(SceneCrops):
    """Draw :class:`ClipBatch` objects, each a function of its seed alone.

    The size is the side of the crops in pixels, the factor that side over the target's.
    """

    border_fill: BorderFill = "edge"

    def __init__(
        self,
        bank: TextureBank,
        size: int,
        factor: float = 4.0,
        device: str | torch.device = "cpu",
        scenes: PairConfig = PairConfig(),  # noqa: B008  (immutable)
        config: ClipConfig = ClipConfig(),  # noqa: B008  (immutable)
    ) -> None:
        super().__init__(bank, size, factor, device, scenes)
        self.clips = config

    def batch(self, size: int, seed: int) -> ClipBatch:
        """Draw ``size`` clips. The same seed gives the same clips on the same kind of device."""
        draw, c = Draw(self.device, seed), self.clips
        scenes = self._scenes(draw, size, companions=self.config.distractors)
        first = scenes.shape
        crops = [self._crop(draw, self._train_view(draw, size, searching=False), scenes)]
        for number in range(1, c.train_crops + c.test_crops):
            scenes = self._later(draw, scenes, first)
            if number < c.train_crops:
                view = self._train_view(draw, size, searching=True)
                crop = self._crop(draw, view, scenes)
                crops.append(self._visible_or_first(crop, crops[0]))
                continue
            places = (c.test_centre, c.test_centre / 3, 0.5, c.test_scale)
            crops.append(self._search_crop(draw, scenes, *places))
        images, boxes, present = (torch.stack(part, 1) for part in zip(*crops, strict=True))
        return ClipBatch(images, boxes, present, c.train_crops)

    def _train_view(self, draw: Draw, size: int, searching: bool) -> View:
        c, side = self.clips, self.search_target
        limit = c.train_centre if searching else c.train_centre / 2
        place = draw.uniform((size, 2), -limit, limit)
        scale = torch.exp(draw.normal(size, c.train_scale).clamp(-0.9, 0.9))
        return View(self.search_size, side * scale, side * place, searching)

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


class TrackGenerator(ClipGenerator):
    """Draw :class:`ClipBatch` objects as a tracker with templates sees them.

    The first crop shows the target in the middle, as at the start; there is one crop to learn
    from, and places and sizes are those of the scenes. Later crops, `test_crops` of them, are
    search crops. Beyond the image's border all are black.
    """

    border_fill: BorderFill = "black"

    def batch(self, size: int, seed: int) -> ClipBatch:
        """Draw ``size`` clips. The same seed gives the same clips on the same kind of device."""
        draw, c = Draw(self.device, seed), self.config
        scenes = self._scenes(draw, size, companions=c.distractors)
        first = scenes.shape
        view = self._template_view(draw, size, self.search_size, self.search_target)
        images, boxes, _ = self._crop(draw, view, scenes)
        crops = [(images, boxes, torch.ones(size, dtype=torch.bool, device=self.device))]
        for _ in range(self.clips.test_crops):
            scenes = self._later(draw, scenes, first)
            crop = self._search_crop(
                draw, scenes, c.centre_limit, c.centre_jitter, c.uniform_centre_fraction,
                c.scale_jitter,
            )  # fmt: skip
            crops.append(crop)
        images, boxes, present = (torch.stack(part, 1) for part in zip(*crops, strict=True))
        return ClipBatch(images, boxes, present, train_crops=1)
