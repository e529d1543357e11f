# SPDX-License-Identifier: Apache-2.0
"""Where training samples come from: the scene generator, and annotated sequences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from tracker_ros.crop import IMAGENET_MEAN, IMAGENET_STD
from tracker_ros.models.grm.config import GRM_CONFIGS
from tracker_ros.models.one_stream_config import OneStreamConfig
from tracker_ros.models.ostrack.config import OSTRACK_CONFIGS
from tracker_ros.models.trdimp.config import TRDIMP_MODELS
from tracker_ros.synthetic.clips import ClipGenerator
from tracker_ros.synthetic.footage import Footage, FootageRuns
from tracker_ros.synthetic.moving_scenes import MovingScenes
from tracker_ros.synthetic.pairs import PairGenerator
from tracker_ros.synthetic.textures import TextureBank, procedural_bank
from tracker_ros.training.recipe import Recipe, Source

ONE_STREAM_CONFIGS: dict[str, OneStreamConfig] = {**OSTRACK_CONFIGS, **GRM_CONFIGS}
HELD_OUT = 0.05
"""Share of a texture bank, at its end, that only validation sees."""


class SampleSource(Protocol):
    """Anything that draws a batch of samples, pairs or clips, from a seed."""

    def batch(self, size: int, seed: int) -> Any:
        """Draw ``size`` samples."""


DRAWN = ("synthetic", "footage")
"""Kinds of sources that draw their samples on the device; others read files."""
VALIDATION_FRAMES = 8
"""Frames of the runs that masks are carried through in validation."""

SourceOpener = Callable[[Source, Recipe, torch.device, bool], SampleSource]
"""Opens a recipe's source on a device, for training or (True) for validation."""


def normalise(image: Tensor) -> Tensor:
    """(B, 3, H, W) in [0, 1] to the networks' input: ImageNet mean and standard deviation."""
    mean = image.new_tensor(IMAGENET_MEAN)[:, None, None]
    return (image - mean) / image.new_tensor(IMAGENET_STD)[:, None, None]


def split_bank(bank: TextureBank, validation: bool) -> TextureBank:
    """The part of a bank for training, or the part held out for validation."""

    def part(count: int) -> slice:
        edge = max(1, round(count * (1 - HELD_OUT)))
        return slice(min(edge, count - 1), None) if validation else slice(0, edge)

    tiles, cutouts = part(len(bank.tiles)), part(len(bank.cutouts))
    return TextureBank(bank.tiles[tiles], bank.labels[tiles], bank.cutouts[cutouts])


def open_bank(source: Source, recipe: Recipe, validation: bool) -> TextureBank:
    """A synthetic source's pictures, or procedural textures where it names none."""
    bank = (
        TextureBank.load(Path(source.path).expanduser())
        if source.path
        else procedural_bank(recipe.seed)
    )
    return split_bank(bank, validation)


def open_pairs(
    source: Source, recipe: Recipe, device: torch.device, validation: bool = False
) -> SampleSource:
    """Open a source of pairs for a one-stream tracker.

    Raises:
        ValueError: ``source.kind`` is unknown.
        FileNotFoundError: its path does not exist or holds no sequences.
    """
    network = ONE_STREAM_CONFIGS[recipe.model]
    sizes = (
        network.template_size,
        network.search_size,
        network.template_factor,
        network.search_factor,
    )
    if source.kind == "synthetic":
        bank = open_bank(source, recipe, validation)
        return PairGenerator(bank, *sizes, device=device, config=recipe.pairs)
    from tracker_ros.training.datasets import open_dataset
    from tracker_ros.training.sequence_pairs import SequencePairs

    split = "val" if validation else source.split
    return SequencePairs(open_dataset(source.kind, source.path, split), *sizes, recipe.pairs)


def open_clips(
    source: Source, recipe: Recipe, device: torch.device, validation: bool = False
) -> SampleSource:
    """Open a source of clips for a tracker that learns online.

    Raises:
        ValueError: ``source.kind`` is not "synthetic".
    """
    if source.kind != "synthetic":
        raise ValueError(
            f"source kind {source.kind!r}: {recipe.model} trains on 'synthetic' clips alone"
        )
    parameters = TRDIMP_MODELS[recipe.model][1]
    return ClipGenerator(
        open_bank(source, recipe, validation),
        parameters.image_sample_size,
        parameters.search_area_scale,
        device,
        recipe.pairs,
        recipe.clips,
    )


def open_frames(
    source: Source, recipe: Recipe, device: torch.device, validation: bool = False
) -> SampleSource:
    """Open a source of runs of frames for a tracker that matches whole images.

    Raises:
        ValueError: ``source.kind`` is neither "synthetic" nor "footage", or footage, which nobody
            has labelled, is to validate.
    """
    if source.kind not in DRAWN:
        raise ValueError(
            f"source kind {source.kind!r}: {recipe.model} trains on 'synthetic' scenes and "
            "'footage' alone"
        )
    if source.kind == "footage":
        if validation:
            raise ValueError("the first source is footage, without labels; name synthetic first")
        scenes = Footage.load(Path(source.path).expanduser()).scenes
        return FootageRuns(scenes, device, recipe.frames)
    frames = VALIDATION_FRAMES if validation else recipe.frames.frames
    config = replace(recipe.frames, frames=frames)
    return MovingScenes(open_bank(source, recipe, validation), device, config)
