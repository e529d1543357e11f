# SPDX-License-Identifier: Apache-2.0
"""Where training samples come from: the scene generator, and annotated sequences.

Batches of training samples, each a function of the recipe's seed and the step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from tracker_ros.models.one_stream.config import GRM_CONFIGS, OSTRACK_CONFIGS, OneStreamConfig
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
    from tracker_ros.training.datasets import SequencePairs, open_dataset

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


def pick_source(recipe: Recipe, step: int) -> int:
    """Which source feeds a step: a seeded draw by weight."""
    weights = torch.tensor([source.weight for source in recipe.sources])
    generator = torch.Generator().manual_seed(recipe.seed * 7_919 + step)
    return int(torch.multinomial(weights, 1, generator=generator))


class SampleStream(IterableDataset):
    """Batches of one process from a step on; workers take turns so that order is kept."""

    def __init__(
        self,
        recipe: Recipe,
        open_source: SourceOpener,
        first_step: int,
        rank: int = 0,
        world_size: int = 1,
        device: str = "cpu",
    ) -> None:
        super().__init__()
        self.recipe, self.open_source, self.first_step = recipe, open_source, first_step
        self.rank, self.world_size, self.device = rank, world_size, device

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        offset, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        device = torch.device(self.device)
        opened: dict[int, SampleSource] = {}
        for step in range(self.first_step + offset, self.recipe.steps, stride):
            index = pick_source(self.recipe, step)
            if index not in opened:
                source = self.recipe.sources[index]
                opened[index] = self.open_source(source, self.recipe, device, False)
            seed = (self.recipe.seed * 1_000_003 + step) * self.world_size + self.rank
            yield opened[index].batch(self.recipe.batch_size, seed)


def batches(
    recipe: Recipe,
    open_source: SourceOpener,
    first_step: int,
    device: torch.device,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[Any]:
    """Batches from ``first_step`` to the recipe's end.

    Samples for a GPU are drawn there if they can be; all others come from worker processes.
    """
    on_gpu = device.type == "cuda" and all(s.kind in DRAWN for s in recipe.sources)
    place = str(device) if on_gpu else "cpu"
    stream = SampleStream(recipe, open_source, first_step, rank, world_size, place)
    if on_gpu or recipe.loader_workers == 0:
        return iter(stream)
    loader = DataLoader(
        stream, batch_size=None, num_workers=recipe.loader_workers, prefetch_factor=4
    )
    return iter(loader)
