# SPDX-License-Identifier: Apache-2.0
"""Batches of training samples, each a function of the recipe's seed and the step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from tracker_ros.training.recipe import Recipe
from tracker_ros.training.sources import DRAWN, SampleSource, SourceOpener


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
