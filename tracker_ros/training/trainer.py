# SPDX-License-Identifier: Apache-2.0
"""The training loop: seeded, resumable, one process or several under ``torchrun``.

What ``tracker-ros train`` does: read the recipe, train or resume, write weights and card.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from tqdm import tqdm

from tracker_ros.process import keep_large_buffers
from tracker_ros.registry import resolve_device
from tracker_ros.training.card import LOG, plot_curve, write_card
from tracker_ros.training.recipe import Recipe, load_recipe
from tracker_ros.training.sources import SampleStream, batches
from tracker_ros.training.tasks.families import open_task
from tracker_ros.training.tasks.task import TrainingTask

VALIDATION_SEED = 10**9
CHECKPOINT = "checkpoint.pt"
STATISTICS_BATCHES = 8


@torch.no_grad()
def refresh_batch_norm(task: TrainingTask, batches: Sequence[Any], step: int) -> None:
    """Measure afresh what batch normalisation subtracts and divides by.

    Averaged weights answer more weakly than the weights they are the average of: statistics that
    were gathered on the way would flatten everything that the averaged network says.

    Args:
        task: Around the averaged network; changed in place.
        batches: To measure with.
        step: Of the schedule.
    """
    norms = [m for m in task.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean of all batches
    task.train()
    for batch in batches:
        task(batch, step)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    task.eval()


class Trainer:
    """Trains one network by a recipe in a folder that holds checkpoint, log and curve.

    Args:
        recipe: What to train and how.
        folder: Created; a checkpoint in it is resumed.
        device: Where to train.
    """

    def __init__(self, recipe: Recipe, folder: Path, device: torch.device) -> None:
        self.recipe, self.folder, self.device = recipe, folder, device
        self.rank = int(os.environ.get("RANK", 0))
        self.world_size = int(os.environ.get("WORLD_SIZE", 1))
        if self.world_size > 1 and not dist.is_initialized():
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        if device.type == "cpu":
            keep_large_buffers()
        if recipe.threads:
            torch.set_num_threads(recipe.threads)
        torch.manual_seed(recipe.seed)
        self.task = open_task(recipe).to(device)
        self.network = self.task.network
        self.averaged_task = copy.deepcopy(self.task).requires_grad_(False)
        self.average = self.averaged_task.network.eval()
        self.optimiser = torch.optim.AdamW(self.task.groups(), lr=recipe.learning_rate)
        self.step, self.samples_seen, self.seconds = 0, 0, 0.0
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / CHECKPOINT).exists():
            self._resume()
        self.model: nn.Module = self.task
        if self.world_size > 1:
            self.model = nn.parallel.DistributedDataParallel(self.task)

    def _resume(self) -> None:
        state = torch.load(self.folder / CHECKPOINT, map_location=self.device, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.samples_seen = state["step"], state["samples_seen"]
        self.seconds = state["seconds"]

    def save(self) -> None:
        """Write the checkpoint; an interrupted write leaves the old one whole."""
        if self.rank:
            return
        state = {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "samples_seen": self.samples_seen,
            "seconds": self.seconds,
        }
        partial = self.folder / f"{CHECKPOINT}.partial"
        torch.save(state, partial)
        partial.replace(self.folder / CHECKPOINT)

    def run(self) -> nn.Module:
        """Train to the recipe's last step. Returns the averaged network, in eval mode."""
        recipe = self.recipe
        stream = batches(
            recipe,
            self.task.open_source,
            self.step,
            self.device,
            self.rank,
            self.world_size,
        )
        checks, lessons = self._fixed_batches() if self.rank == 0 else ([], [])
        bar = tqdm(total=recipe.steps, initial=self.step, desc=recipe.model, disable=self.rank > 0)
        began = time.monotonic()
        while self.step < recipe.steps:
            terms = self._train_step(next(stream))
            self.step += 1
            self.samples_seen += recipe.batch_size * self.world_size
            now = time.monotonic()
            self.seconds, began = self.seconds + now - began, now
            bar.update()
            if self.step % 20 == 0:
                bar.set_postfix({name: f"{value:.3f}" for name, value in terms.items()})
            if self.step % recipe.validate_every == 0 or self.step == recipe.steps:
                if self.rank == 0:
                    refresh_batch_norm(self.averaged_task, lessons, self.step)
                    self._log(terms, self.task.validate(self.average, checks))
                self.save()
        bar.close()
        return self.average

    def _train_step(self, batch: Any) -> dict[str, float]:
        # Draws within the step depend on the step alone, so that a resumed run repeats them.
        torch.manual_seed(self.recipe.seed * 1_000_003 + self.step)
        rate = self.recipe.rate(self.step)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["scale"]
        self.model.train()
        losses = self.model(batch, self.step)
        self.optimiser.zero_grad(set_to_none=True)
        losses["total"].backward()
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.gradient_clip)
        if torch.isfinite(norm):
            self.optimiser.step()
            self._update_average()
        return {name: float(value.detach()) for name, value in losses.items()}

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.recipe.average_decay, (1 + self.step) / (10 + self.step))
        for mean, value in zip(
            self.average.state_dict().values(), self.network.state_dict().values(), strict=True
        ):
            if mean.dtype.is_floating_point:
                mean.lerp_(value, 1 - decay)
            else:
                mean.copy_(value)

    def _fixed_batches(self) -> tuple[list[Any], list[Any]]:
        """Held-out batches to validate with, and training batches for `refresh_batch_norm`."""
        first, cpu = self.recipe.sources[0], torch.device("cpu")
        size = self.task.validation_batch
        count = max(1, self.recipe.validation_samples // size)
        held_out = self.task.open_source(first, self.recipe, cpu, True)
        checks = [held_out.batch(size, VALIDATION_SEED + i) for i in range(count)]
        if not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in self.task.modules()):
            return checks, []
        lessons = islice(SampleStream(self.recipe, self.task.open_source, 0), STATISTICS_BATCHES)
        return checks, list(lessons)

    def _log(self, terms: dict[str, float], result: dict[str, float]) -> None:
        line = {
            "step": self.step,
            self.task.unit: self.samples_seen,
            "seconds": round(self.seconds, 1),
            "learning_rate": self.recipe.rate(self.step - 1),
            **{name: round(value, 5) for name, value in terms.items()},
            **{name: round(value, 5) for name, value in result.items()},
        }
        with (self.folder / LOG).open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
        names = self.task.figure_names
        plot_curve(self.folder / LOG, self.folder / "curve.png", self.task.unit, names)
        shown = ", ".join(f"{label} {result[name]:.3f}" for name, label in names.items())
        tqdm.write(f"step {self.step}: {shown}")


def pick_device(name: str) -> torch.device:
    """As `resolve_device`, but for "auto" each process of ``torchrun`` takes its own GPU."""
    if name == "auto" and "LOCAL_RANK" in os.environ and torch.cuda.is_available():
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    return resolve_device(name)


def train_command(args: argparse.Namespace) -> int:
    """Run a recipe to its end.

    The folder (``--out``, default ``runs/<recipe's name>``) holds `checkpoint.pt`, `log.jsonl`,
    `curve.png` and, at the end, `<model>.safetensors` in fp16 with its card.
    """
    recipe_path = Path(args.recipe)
    recipe = load_recipe(recipe_path)
    folder = args.out or Path("runs") / recipe_path.stem
    trainer = Trainer(recipe, folder, pick_device(args.device))
    network = trainer.run()
    if trainer.rank == 0:
        weights = write_card(network, recipe, recipe_path, folder, trainer)
        print(
            f"{weights}: trained on {trainer.samples_seen} {trainer.task.unit} "
            f"in {trainer.seconds / 3600:.2f} h"
        )
    if trainer.world_size > 1:
        dist.destroy_process_group()
    return 0
