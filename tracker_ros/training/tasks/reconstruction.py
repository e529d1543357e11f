# SPDX-License-Identifier: Apache-2.0
"""Train MAST on runs of frames without labels: reconstruct a hidden colour of each frame.

One of the two colour channels is hidden from the network in all images; it must be copied from the
references by features of the other channels alone. First from one neighbouring frame, later from
all earlier frames of a run under one softmax, as the tracker's memory does; in the end, in the
dynamic stage, from one far back too, which a wide search locates. Paper: Lai, Lu, Xie,
CVPR 2020 (https://arxiv.org/abs/2002.07793), sections 3 and 4.1. What differs on purpose: cells
are compared with the pixels that they were read from, and scenes are drawn.

Validation does what tracking does: it carries the masks of drawn scenes through their frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tracker_ros.checkpoints import load_strictly, read_weights
from tracker_ros.cuda.local_attention_reference import (
    expected_offset_reference,
    local_attention_reference,
)
from tracker_ros.models.mast.config import PropagationParameters, reference_frames
from tracker_ros.models.mast.images import LAB_MEAN, LAB_STD
from tracker_ros.models.mast.matching import cell_labels, search_dilation, spread_cells
from tracker_ros.models.mast.network import MASTNetwork
from tracker_ros.synthetic.footage import Footage, FootageRuns
from tracker_ros.synthetic.moving_scenes import FrameBatch, MovingScenes
from tracker_ros.training.initialisation import starting_weights
from tracker_ros.training.recipe import Recipe, Source
from tracker_ros.training.sources import DRAWN, SampleSource, open_bank
from tracker_ros.training.tasks import TrainingTask
from tracker_ros.training.videos import find_videos

# sRGB to CIE XYZ over its white point D65, and the constants of CIE Lab, as OpenCV has them.
_TO_XYZ = (
    (0.412453 / 0.950456, 0.357580 / 0.950456, 0.180423 / 0.950456),
    (0.212671, 0.715160, 0.072169),
    (0.019334 / 1.088754, 0.119193 / 1.088754, 0.950227 / 1.088754),
)
_DARK = 0.008856
VALIDATION_FRAMES = 8
"""Frames of the runs that masks are carried through in validation."""
MIN_OBJECT = 64
"""An object with fewer visible pixels in a frame is not judged there."""
COLOUR_CHANNELS = (1, 2)
"""Channels of Lab that may be hidden."""
LOSS_SCALE = 20.0
BLOCK = 8
"""Side of the squares of cells that `copy_colours` works on."""


class ReconstructionTask(TrainingTask):
    """MAST on runs of consecutive frames."""

    unit = "runs"
    validation_batch = 8
    figure_names = {"region": "mean J", "reconstruction": "reconstruction loss"}
    network: MASTNetwork

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe, MASTNetwork(self.configuration(recipe)[0]))
        if recipe.start_from:
            start = starting_weights(recipe.start_from)
            load_strictly(self.network, read_weights(start), start.name)
        # At bfloat16 a CPU convolves channels-last images twice as fast.
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @classmethod
    def open_source(
        cls, source: Source, recipe: Recipe, device: torch.device, validation: bool = False
    ) -> SampleSource:
        """See `TrainingTask`; footage, which has no labels, cannot validate."""
        if source.kind not in (*DRAWN, "videos"):
            raise ValueError(
                f"source kind {source.kind!r}: {recipe.model} trains on 'synthetic' scenes, "
                "'footage' and 'videos' alone"
            )
        if source.kind != "synthetic":
            if validation:
                raise ValueError(
                    f"the first source validates and is {source.kind}, without labels; put a "
                    "synthetic source first"
                )
            if source.kind == "videos":
                return FootageRuns(find_videos(source.path, recipe.frames), device, recipe.frames)
            scenes = Footage.load(Path(source.path).expanduser()).scenes
            return FootageRuns(scenes, device, recipe.frames)
        frames = VALIDATION_FRAMES if validation else recipe.frames.frames
        config = replace(recipe.frames, frames=frames)
        return MovingScenes(open_bank(source, recipe, validation), device, config)

    def forward(self, batch: FrameBatch, step: int) -> dict[str, Tensor]:
        """See `TrainingTask`; hides one colour channel, drawn by the step's seed."""
        frames = self._lab(batch)
        channel = COLOUR_CHANNELS[int(torch.randint(2, ()))]
        if step < self.recipe.one_reference_steps:
            frames = frames[:, 1:] if self.recipe.frames.far_gap else frames
            even = 2 * (frames.shape[1] // 2)
            before, after = (frames[:, i:even:2].flatten(0, 1) for i in (0, 1))
            loss = self._loss(self.network, [before], after, channel)
        else:
            *references, target = frames.unbind(1)
            dynamic = bool(self.recipe.dynamic_from) and step >= self.recipe.dynamic_from
            far_gap = self.recipe.frames.far_gap if dynamic else 0
            if self.recipe.frames.far_gap and not dynamic:
                references = references[1:]
            loss = self._loss(self.network, references, target, channel, far_gap)
        return {"total": loss}

    def _lab(self, batch: FrameBatch) -> Tensor:
        device = next(self.network.parameters()).device
        return normalised_lab(batch.images.to(device))

    def _loss(
        self,
        network: MASTNetwork,
        references: Sequence[Tensor],
        target: Tensor,
        channel: int,
        far_gap: int = 0,
    ) -> Tensor:
        half = self.autocast(target.device)
        references = [image.to(memory_format=torch.channels_last) for image in references]
        target = target.to(memory_format=torch.channels_last)
        colours = reconstruct(network, references, target, channel, half, far_gap)
        return reconstruction_loss(colours, target[:, channel : channel + 1], aligned=True)

    @torch.no_grad()
    def validate(self, network: nn.Module, batches: Sequence[FrameBatch]) -> dict[str, float]:
        """See `TrainingTask`; ``region`` is the mean J of all objects in all but first frames."""
        network = cast(MASTNetwork, network).eval()
        losses, regions = [], []
        for batch in batches:
            frames = self._lab(batch)
            for channel in COLOUR_CHANNELS:
                losses.append(self._loss(network, [frames[:, 0]], frames[:, 1], channel))
            assert batch.labels is not None
            truth = batch.labels.to(frames.device).long()
            regions.append(region_similarities(propagate(network, frames, truth[:, 0]), truth))
        return {
            "region": float(torch.cat(regions).mean()),
            "reconstruction": float(torch.stack(losses).mean()),
        }


def propagate(network: MASTNetwork, frames: Tensor, labels: Tensor) -> Tensor:
    """Carry label maps (B, H, W) int64 through frames, with the tracker's memory and radius.

    The frames are (B, T, 3, H, W) normalised Lab, the network is in eval mode. Returns (B, T, H,
    W).
    """
    parameters = PropagationParameters(radius=network.config.radius)
    features = network(frames.flatten(0, 1)).float().unflatten(0, frames.shape[:2])
    size, classes = (int(labels.shape[1]), int(labels.shape[2])), int(labels.max()) + 1
    found = [labels]
    for frame in range(1, frames.shape[1]):
        references = reference_frames(frame, parameters)
        soft = copy_colours(
            features[:, frame],
            [features[:, earlier] for earlier in references],
            [
                F.one_hot(cell_labels(found[earlier]), classes).movedim(-1, 1).float()
                for earlier in references
            ],
            parameters.radius,
        )
        found.append(spread_cells(soft, size, size, aligned=True).argmax(1))
    return torch.stack(found, 1)


def region_similarities(found: Tensor, truth: Tensor) -> Tensor:
    """Return the intersection over union (N,) of every object in every frame but the first.

    Labels are (B, T, H, W); objects that are hardly visible in the first frame or this one are
    left out.
    """
    values = []
    for label in range(1, int(truth.max()) + 1):
        ours, theirs = found == label, truth == label
        seen = theirs.sum((2, 3)) >= MIN_OBJECT
        both, either = (ours & theirs).sum((2, 3)), (ours | theirs).sum((2, 3))
        judged = seen & seen[:, :1]
        judged[:, 0] = False
        values.append((both / either.clamp(min=1))[judged])
    return torch.cat(values)


def drop_channel(images: Tensor, channel: int) -> Tensor:
    """Hide channel 1 or 2 of (B, 3, H, W) Lab and raise the others to the same total, times 3 / 2.

    Each batch draws one of them with equal chance, as officially.
    """
    kept = torch.ones(3, dtype=images.dtype, device=images.device)
    kept[channel] = 0.0
    return images * (1.5 * kept)[:, None, None]


def copy_colours(
    query: Tensor, keys: Sequence[Tensor], values: Sequence[Tensor], radius: int
) -> Tensor:
    """Copy the colours of a frame from windows of its references; made for gradients.

    The result is that of `cuda.local_attention`, which is made for inference. Here the cells of a
    block are compared with everything in the window of any of them, in one product of matrices,
    and what is outside a cell's own window is left out of its softmax. Query and keys are (B, C,
    h, w) features, the values (B, V, h, w) colours of each reference, the radius is in cells.
    Returns (B, V, h, w).
    """
    batch, _, height, width = query.shape
    down, right = -height % BLOCK, -width % BLOCK
    cells = _blocks(query, (0, right, 0, down), BLOCK).transpose(2, 3)
    border, side = (radius, radius + right, radius, radius + down), BLOCK + 2 * radius
    outside = ~_windows(radius, query.device)
    scores = [
        (cells @ _blocks(key, border, side)).masked_fill(outside, -torch.inf) for key in keys
    ]
    weights = torch.cat(scores, dim=3).softmax(dim=3)
    copied = weights @ torch.cat([_blocks(value, border, side) for value in values], 3).mT
    rows, columns = (height + down) // BLOCK, (width + right) // BLOCK
    copied = copied.view(batch, rows, columns, BLOCK, BLOCK, -1).permute(0, 5, 1, 3, 2, 4)
    return copied.reshape(batch, -1, height + down, width + right)[..., :height, :width]


def _blocks(maps: Tensor, border: tuple[int, int, int, int], side: int) -> Tensor:
    """Pad (B, C, h, w) and cut it into overlapping squares: (B, blocks, C, side * side)."""
    squares = F.pad(maps, border).unfold(2, side, BLOCK).unfold(3, side, BLOCK)
    return squares.permute(0, 2, 3, 1, 4, 5).flatten(4).flatten(1, 2)


def _windows(radius: int, device: torch.device) -> Tensor:
    """Tell which places around a block are in the window of each cell, (BLOCK**2, side**2)."""
    cell = torch.arange(BLOCK, device=device)[:, None] + radius
    place = torch.arange(BLOCK + 2 * radius, device=device)
    near = (cell - place).abs() <= radius
    return (near[:, None, :, None] & near[None, :, None, :]).flatten(2).flatten(0, 1)


def reconstruction_loss(colours: Tensor, target: Tensor, *, aligned: bool = False) -> Tensor:
    """Compute the mean Huber loss of `LOSS_SCALE` times the colours, interpolated to pixels.

    Colours are (B, 1, h, w), the hidden channel (B, 1, H, W); `aligned` as in `spread_cells`,
    officially False.
    """
    size = (int(target.shape[2]), int(target.shape[3]))
    pixels = spread_cells(colours, size, size, aligned=aligned)
    return F.smooth_l1_loss(LOSS_SCALE * pixels, LOSS_SCALE * target)


def reconstruct(
    network: MASTNetwork,
    references: Sequence[Tensor],
    target: Tensor,
    channel: int,
    half: AbstractContextManager | None = None,
    far_gap: int = 0,
) -> Tensor:
    """Reconstruct a frame's hidden channel from references: (B, 1, h, w), one value per cell.

    All images are (B, 3, H, W) normalised Lab. The network alone runs in the context `half`, for
    example half precision. With a `far_gap` the first reference lies that many frames back, and is
    looked up around where a wide search finds each cell, as when tracking.
    """
    with half or nullcontext():
        # Batch norms see every frame's images apart, as officially.
        features = [network(drop_channel(image, channel)) for image in (*references, target)]
    *keys, query = (each.to(target.dtype).contiguous() for each in features)
    values = [cell_labels(image[:, channel : channel + 1]) for image in references]
    radius = network.config.radius_training
    if not far_gap:
        return copy_colours(query, keys, values, radius)
    dilation = max(1, search_dilation(far_gap, PropagationParameters()))
    with torch.no_grad():
        moved = expected_offset_reference(query, keys[0], radius, dilation)
    offsets = [moved, *(None for _ in keys[1:])]
    return local_attention_reference(query, keys, values, offsets, radius)


def normalised_lab(images: Tensor) -> Tensor:
    """Turn (..., 3, H, W) RGB in [0, 1] into normalised Lab of the same shape, on any device.

    The result differs from `network_input` by up to 0.004: OpenCV interpolates in a table.
    """
    linear = torch.where(
        images > 0.04045, ((images.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4, images / 12.92
    )
    xyz = torch.einsum("...chw,kc->...khw", linear, images.new_tensor(_TO_XYZ))
    root = torch.where(xyz > _DARK, xyz.clamp(min=_DARK) ** (1 / 3), 7.787 * xyz + 16 / 116)
    x, y, z = root.unbind(-3)
    lab = torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=-3)
    mean, std = (images.new_tensor(numbers)[:, None, None] for numbers in (LAB_MEAN, LAB_STD))
    return (lab - mean) / std
