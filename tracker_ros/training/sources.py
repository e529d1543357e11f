# SPDX-License-Identifier: Apache-2.0
"""Draw batches of training samples, each a function of the recipe's seed and the step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from tracker_ros.synthetic.textures import TextureBank, procedural_bank
from tracker_ros.training.recipe import Recipe, Source

HELD_OUT = 0.05
"""Share of a texture bank, at its end, that only validation sees."""


class SampleSource(Protocol):
    """Anything that draws a batch of samples (pairs, clips or runs) from a seed."""

    def batch(self, size: int, seed: int) -> Any:
        """Draw ``size`` samples."""


DRAWN = ("synthetic", "footage")
"""Kinds of sources that draw their samples on the device; others read files."""

SourceOpener = Callable[[Source, Recipe, torch.device, bool], SampleSource]
"""Opens a source of a recipe on a device, for training or (True) for validation."""


def split_bank(bank: TextureBank, validation: bool) -> TextureBank:
    """Return the part of a bank for training, or the part held out for validation."""

    def part(count: int) -> slice:
        edge = max(1, round(count * (1 - HELD_OUT)))
        return slice(min(edge, count - 1), None) if validation else slice(0, edge)

    tiles, cutouts = part(len(bank.tiles)), part(len(bank.cutouts))
    return TextureBank(bank.tiles[tiles], bank.labels[tiles], bank.cutouts[cutouts])


def open_bank(source: Source, recipe: Recipe, validation: bool) -> TextureBank:
    """Open the pictures of a synthetic source, or procedural textures if it names none."""
    return split_bank(_whole_bank(source.path, recipe.seed), validation)


@lru_cache(maxsize=4)
def _whole_bank(path: str, seed: int) -> TextureBank:
    """Keep the banks that training, validation and statistics all draw from."""
    return TextureBank.load(Path(path).expanduser()) if path else procedural_bank(seed)


def pick_source(recipe: Recipe, step: int) -> int:
    """Draw the source of a step by the sources' weights; the seed and the step decide."""
    weights = torch.tensor([source.weight for source in recipe.sources])
    generator = torch.Generator().manual_seed(recipe.seed * 7_919 + step)
    return int(torch.multinomial(weights, 1, generator=generator))


class SampleStream(IterableDataset):
    """Batches of one process from a step on; its workers take turns, which keeps their order.

    After the first step, those that replay earlier features get None.
    """

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
            if step > self.first_step and not self.recipe.draws(step):
                yield None
                continue
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
    """Iterate over the batches from ``first_step`` to the recipe's end.

    Samples for a GPU are drawn there if all sources can be; otherwise worker processes draw them.
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
