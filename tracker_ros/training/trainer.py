# SPDX-License-Identifier: Apache-2.0
"""The training loop: seeded, resumable, one process or several under ``torchrun``.

`train_command` is ``tracker-ros train``: read a recipe, train or resume, write weights and card.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from tracker_ros.checkpoints import check_fit, write_weights
from tracker_ros.output_files import check_outputs, check_writable, replacement, write_whole
from tracker_ros.process import EndRequest, hold_end_signals, keep_large_buffers
from tracker_ros.registry import resolve_device
from tracker_ros.training.initialisation import starting_weights
from tracker_ros.training.recipe import Recipe, load_recipe
from tracker_ros.training.sources import SampleStream, batches
from tracker_ros.training.tasks import TrainingTask, open_task

_Tensors = tuple[Tensor, ...] | list[Tensor]
VALIDATION_SEED = 10**9
CHECKPOINT, LOG, CURVE, LOCK = "checkpoint.pt", "log.jsonl", "curve.png", ".lock"
STATISTICS_BATCHES = 8
"""Batches by which the statistics of batch normalisation are measured."""
SHOWN_TERMS = ("total", "focal", "classifier", "iou_branch")
"""Terms of the loss that the curve shows."""


@torch.no_grad()
def refresh_batch_norm(task: TrainingTask, batches: Sequence[Any], step: int) -> None:
    """Measure the statistics of batch normalisation again, and leave the task in eval mode.

    Averaged weights respond more weakly than the weights they are averages of, so statistics that
    were gathered on the way would flatten the averaged network's outputs. (`swa_utils.update_bn`
    does the same for networks that take nothing but a batch.)
    """
    task.train()
    # Norms that stay in eval mode are those of frozen layers.
    norms = [m for m in task.modules() if isinstance(m, _BatchNorm) and m.training]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean of all batches
    for batch in batches:
        task(batch, step)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    task.eval()


class Trainer:
    """Train one network by a recipe, in a folder that holds checkpoint, log and curve.

    The folder is made if it is missing; a checkpoint in it is resumed. Raises ValueError if the
    checkpoint is damaged, or of another model or recipe, OSError if the folder cannot be written.
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
        self.averaged = AveragedModel(self.task, multi_avg_fn=self._average, use_buffers=True)
        self.averaged.requires_grad_(False)
        self.averaged.n_averaged += 1  # the initial weights count, so the first step is averaged
        self.averaged_task = cast(TrainingTask, self.averaged.module)
        self.average: nn.Module = self.averaged_task.network.eval()
        self.optimiser = torch.optim.AdamW(self.task.groups(), lr=recipe.learning_rate)
        self.step, self.samples_seen, self.seconds = 0, 0, 0.0
        if self.rank == 0:
            check_writable(*(folder / name for name in (CHECKPOINT, LOG, CURVE)))
        if (folder / CHECKPOINT).exists():
            self._resume()
        self.model: nn.Module = self.task
        if self.world_size > 1:
            self.model = nn.parallel.DistributedDataParallel(self.task)

    def _resume(self) -> None:
        path = self.folder / CHECKPOINT
        remedy = "name another folder with --out, or remove the file to begin anew"
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            steps, seen, seconds = state["step"], state["samples_seen"], float(state["seconds"])
            if not (type(steps) is type(seen) is int and 0 <= steps <= 10**12 and seen >= 0):
                raise ValueError(f"it is at step {steps!r} after {seen!r} samples")
            weights = {name: state[name] for name in ("network", "average")}
            for name, tensors in weights.items():
                check_fit(self.network, tensors, name)
            self.optimiser.load_state_dict(state["optimiser"])
        except Exception as error:  # a damaged or foreign file makes torch fail in any way
            reason = (str(error).strip().splitlines() or [""])[0] or type(error).__name__
            raise ValueError(
                f"{path} is no checkpoint of {self.recipe.model} that can be resumed ({reason}); "
                f"{remedy}"
            ) from error
        self.network.load_state_dict(weights["network"])
        self.average.load_state_dict(weights["average"])
        self.step, self.samples_seen, self.seconds = steps, seen, seconds

    def save(self) -> None:
        """Write the checkpoint; an interrupted write leaves the old one intact."""
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
        with replacement(self.folder / CHECKPOINT) as place:
            try:
                torch.save(state, place)
            except RuntimeError as error:  # of its own writer, whatever the system said
                raise OSError(str(error).splitlines()[0]) from error

    def run(self, end: EndRequest | None = None) -> nn.Module:
        """Train to the recipe's last step, or until a request to end, and save.

        Returns the averaged network, in eval mode.
        """
        recipe, source = self.recipe, self.task.open_source
        stream = batches(recipe, source, self.step, self.device, self.rank, self.world_size)
        checks, norm_batches = self._fixed_batches() if self.rank == 0 else ([], [])
        bar = tqdm(total=recipe.steps, initial=self.step, desc=recipe.model, disable=self.rank > 0)
        began = time.monotonic()
        while self.step < recipe.steps and not end:
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
                    refresh_batch_norm(self.averaged_task, norm_batches, self.step)
                    self._log(terms, self.task.validate(self.average, checks))
                self.save()
        if end and self.step < recipe.steps:
            self.save()
        bar.close()
        return self.average

    def _train_step(self, batch: Any) -> dict[str, float]:
        # Random numbers within a step depend on the step alone, so a resumed run repeats them.
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
            self.averaged.update_parameters(self.task)
        return {name: float(value.detach()) for name, value in losses.items()}

    def _average(self, average: _Tensors, latest: _Tensors, count: Tensor | int) -> None:
        """Move averages towards the latest values; early steps of a run are forgotten faster."""
        if average[0].is_floating_point():
            decay = min(self.recipe.average_decay, (1 + self.step) / (10 + self.step))
            get_ema_multi_avg_fn(decay)(average, latest, count)
        else:
            for mean, value in zip(average, latest, strict=True):
                mean.copy_(value)  # a counter of batches

    def _fixed_batches(self) -> tuple[list[Any], list[Any]]:
        """Draw held-out batches for validation, and training ones for `refresh_batch_norm`."""
        first, cpu = self.recipe.sources[0], torch.device("cpu")
        samples = max(1, self.recipe.validation_samples)
        size = min(self.task.validation_batch, samples)
        held_out = self.task.open_source(first, self.recipe, cpu, True)
        checks = [held_out.batch(size, VALIDATION_SEED + i) for i in range(samples // size)]
        if not any(isinstance(m, _BatchNorm) for m in self.task.modules()):
            return checks, []
        stream = iter(SampleStream(self.recipe, self.task.open_source, 0))
        drawn = (batch for batch in stream if batch is not None)
        return checks, list(islice(drawn, STATISTICS_BATCHES))

    def _log(self, terms: dict[str, float], result: dict[str, float]) -> None:
        line = {
            "step": self.step,
            self.task.unit: self.samples_seen,
            "seconds": round(self.seconds, 1),
            "learning_rate": self.recipe.rate(self.step - 1),
            **{name: round(value, 5) for name, value in {**terms, **result}.items()},
        }
        lines = [*read_log(self.folder / LOG), line]
        write_whole(self.folder / LOG, "".join(json.dumps(each) + "\n" for each in lines))
        names = self.task.figure_names
        plot_curve(self.folder / LOG, self.folder / CURVE, self.task.unit, names)
        shown = ", ".join(f"{label} {result[name]:.3f}" for name, label in names.items())
        tqdm.write(f"step {self.step}: {shown}")


def write_card(trainer: Trainer, recipe_path: Path) -> Path:
    """Write the averaged weights in fp16 and their card. Returns the file of the weights."""
    recipe, network = trainer.recipe, trainer.average
    weights = trainer.folder / f"{recipe.model}.safetensors"
    sha256 = write_weights(network.state_dict(), weights, half=True)
    last = (read_log(trainer.folder / LOG) or [{}])[-1]
    card = {
        "model": recipe.model,
        "sha256": sha256,
        "parameters": sum(p.numel() for p in network.parameters()),
        "recipe": recipe_path.name,
        "data": [
            f"{source.kind}: {Path(source.path).name or 'procedural textures'}"
            for source in recipe.sources
        ],
        "seed": recipe.seed,
        trainer.task.unit: trainer.samples_seen,
        "hours": round(trainer.seconds / 3600, 2),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "validation": {name: last.get(name) for name in trainer.task.figure_names},
    }
    write_whole(weights.with_suffix(".json"), json.dumps(card, indent=2) + "\n")
    return weights


def read_log(path: Path) -> list[dict]:
    """Read the lines of a ``log.jsonl``; of steps that a resumed run repeated, the latest.

    Lines that are cut or are no steps are left out. There are none without the file.
    """
    by_step = {}
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    for line in text.splitlines():
        with suppress(ValueError, TypeError, KeyError):
            step = json.loads(line)
            by_step[int(step["step"])] = step
    return [by_step[step] for step in sorted(by_step)]


def plot_curve(log: Path, out: Path, unit: str, figure_names: Mapping[str, str]) -> None:
    """Draw the figures of validation and the training loss over the samples, called ``unit``."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    lines = [line for line in read_log(log) if {unit, "total", *figure_names} <= line.keys()]
    if not lines:
        return
    samples = [line[unit] / 1000 for line in lines]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.6), constrained_layout=True)
    for name, label in figure_names.items():
        left.plot(samples, [line[name] for line in lines], label=label)
    left.set(xlabel=f"thousand {unit}", ylim=(0, 1), title=f"held-out {unit}")
    left.grid(alpha=0.3)
    left.legend()
    for name in (term for term in SHOWN_TERMS if term in lines[0]):
        right.plot(samples, [line[name] for line in lines], label=name)
    right.set(xlabel=f"thousand {unit}", yscale="log", title="training loss")
    right.grid(alpha=0.3)
    right.legend()
    with replacement(out) as place:
        figure.savefig(place, dpi=110)
    pyplot.close(figure)


def pick_device(name: str) -> torch.device:
    """Resolve a device name; for "auto" each process of ``torchrun`` takes its own GPU."""
    if name == "auto" and "LOCAL_RANK" in os.environ and torch.cuda.is_available():
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    return resolve_device(name)


def _check_folder(recipe: Recipe, recipe_path: Path, folder: Path) -> None:
    """Refuse a folder in which the run would write over what it reads."""
    names = (CHECKPOINT, LOG, CURVE, f"{recipe.model}.safetensors", f"{recipe.model}.json")
    inputs: dict[str, Path | None] = {"the recipe": recipe_path}
    if recipe.start_from:
        inputs["start_from"] = starting_weights(recipe.start_from)
    for number, source in enumerate(recipe.sources):
        inputs[f"sources[{number}]"] = Path(source.path).expanduser() if source.path else None
    files = {name: path for name, path in inputs.items() if path is None or not path.is_dir()}
    check_outputs({f"{name} in --out": folder / name for name in names}, files)


@contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder; the system lets it go however this process ends.

    Of several processes under ``torchrun`` only the first one holds it. Raises ValueError if
    another run does.
    """
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    if int(os.environ.get("RANK", 0)) == 0:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(
                f"{folder} belongs to a training run that is under way: wait for it, or name "
                "another folder with --out"
            ) from None
    try:
        yield
    finally:
        lock.release()


def train_command(args: argparse.Namespace) -> int:
    """Run a recipe to its end.

    The folder (``--out``, by default ``runs/<name of the recipe>``) holds `checkpoint.pt`,
    `log.jsonl`, `curve.png` and, at the end, `<model>.safetensors` in fp16 with its card. On
    SIGINT or SIGTERM the run is saved after the present step, and continues when it is started
    again; the exit status is then 128 and the signal's number. A second run in the same folder is
    refused.
    """
    recipe_path = Path(args.recipe)
    recipe = load_recipe(recipe_path)
    folder = args.out or Path("runs") / recipe_path.stem
    _check_folder(recipe, recipe_path, folder)
    with hold_folder(folder):
        return _train(recipe, recipe_path, folder, pick_device(args.device))


def _train(recipe: Recipe, recipe_path: Path, folder: Path, device: torch.device) -> int:
    trainer = Trainer(recipe, folder, device)
    with hold_end_signals() as end:
        trainer.run(end)
    if trainer.step < recipe.steps:
        print(f"saved at step {trainer.step} of {recipe.steps} in {folder}; run it again to go on")
        return end.status
    if trainer.rank == 0:
        weights = write_card(trainer, recipe_path)
        print(
            f"{weights}: trained on {trainer.samples_seen} {trainer.task.unit} "
            f"in {trainer.seconds / 3600:.2f} h"
        )
    if trainer.world_size > 1:
        dist.destroy_process_group()
    return 0
