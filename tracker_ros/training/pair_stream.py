# SPDX-License-Identifier: Apache-2.0
"""Batches of training pairs, each a function of the recipe's seed and the step."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from tracker_ros.crop import IMAGENET_MEAN, IMAGENET_STD
from tracker_ros.models.ostrack.config import OSTrackConfig
from tracker_ros.synthetic.pairs import PairBatch, PairGenerator
from tracker_ros.synthetic.textures import TextureBank, procedural_bank
from tracker_ros.training.recipe import Recipe, Source

HELD_OUT = 0.05
"""Share of a texture bank, at its end, that only validation sees."""


class PairSource(Protocol):
    """Anything that draws a batch of pairs from a seed."""

    def batch(self, size: int, seed: int) -> PairBatch:
        """Draw ``size`` pairs."""


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


def open_source(
    source: Source,
    recipe: Recipe,
    network: OSTrackConfig,
    device: torch.device,
    validation: bool = False,
) -> PairSource:
    """Open one source of pairs.

    Raises:
        ValueError: ``source.kind`` is unknown.
        FileNotFoundError: its path does not exist or holds no sequences.
    """
    sizes = (
        network.template_size,
        network.search_size,
        network.template_factor,
        network.search_factor,
    )
    if source.kind == "synthetic":
        bank = (
            TextureBank.load(Path(source.path).expanduser())
            if source.path
            else procedural_bank(recipe.seed)
        )
        bank = split_bank(bank, validation)
        return PairGenerator(bank, *sizes, device=device, config=recipe.pairs)
    from tracker_ros.training.datasets import open_dataset
    from tracker_ros.training.sequence_pairs import SequencePairs

    split = "val" if validation else source.split
    return SequencePairs(open_dataset(source.kind, source.path, split), *sizes, recipe.pairs)


def pick_source(recipe: Recipe, step: int) -> int:
    """Which source feeds a step: a seeded draw by weight."""
    weights = torch.tensor([source.weight for source in recipe.sources])
    generator = torch.Generator().manual_seed(recipe.seed * 7_919 + step)
    return int(torch.multinomial(weights, 1, generator=generator))


class PairStream(IterableDataset):
    """Batches of one process from a step on; workers take turns so that order is kept."""

    def __init__(
        self,
        recipe: Recipe,
        network: OSTrackConfig,
        first_step: int,
        rank: int = 0,
        world_size: int = 1,
        device: str = "cpu",
    ) -> None:
        super().__init__()
        self.recipe, self.network, self.first_step = recipe, network, first_step
        self.rank, self.world_size, self.device = rank, world_size, device

    def __iter__(self) -> Iterator[PairBatch]:
        worker = get_worker_info()
        offset, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        device = torch.device(self.device)
        opened: dict[int, PairSource] = {}
        for step in range(self.first_step + offset, self.recipe.steps, stride):
            index = pick_source(self.recipe, step)
            if index not in opened:
                source = self.recipe.sources[index]
                opened[index] = open_source(source, self.recipe, self.network, device)
            seed = (self.recipe.seed * 1_000_003 + step) * self.world_size + self.rank
            yield opened[index].batch(self.recipe.batch_size, seed)


def batches(
    recipe: Recipe,
    network: OSTrackConfig,
    first_step: int,
    device: torch.device,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[PairBatch]:
    """Batches from ``first_step`` to the recipe's end.

    Synthetic pairs for a GPU are drawn there; everything else comes from worker processes.
    """
    on_gpu = device.type == "cuda" and all(s.kind == "synthetic" for s in recipe.sources)
    place = str(device) if on_gpu else "cpu"
    stream = PairStream(recipe, network, first_step, rank, world_size, place)
    if on_gpu or recipe.loader_workers == 0:
        return iter(stream)
    loader = DataLoader(
        stream, batch_size=None, num_workers=recipe.loader_workers, prefetch_factor=4
    )
    return iter(loader)
