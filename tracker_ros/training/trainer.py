# SPDX-License-Identifier: Apache-2.0
"""The training loop: seeded, resumable, one process or several under ``torchrun``."""

from __future__ import annotations

import copy
import json
import os
import time
from dataclasses import asdict
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from tracker_ros.models.ostrack.config import OSTRACK_CONFIGS
from tracker_ros.models.ostrack.network import OSTrackNetwork
from tracker_ros.synthetic.pairs import PairBatch
from tracker_ros.training.allocator import keep_large_buffers
from tracker_ros.training.curve import LOG, plot_curve
from tracker_ros.training.initialisation import begin_from_scratch, begin_from_weights
from tracker_ros.training.keep_rate import keep_rate_at
from tracker_ros.training.objective import pair_losses
from tracker_ros.training.pair_stream import batches, normalise, open_source
from tracker_ros.training.recipe import Recipe
from tracker_ros.training.validation import Validation, validate

VALIDATION_SEED = 10**9
CHECKPOINT = "checkpoint.pt"
FUSED_FIRST = (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH)


class Trainer:
    """Trains one network by a recipe in a folder that holds checkpoint, log and curve.

    Args:
        recipe: What to train and how.
        folder: Created; a checkpoint in it is resumed.
        device: Where to train.
    """

    def __init__(self, recipe: Recipe, folder: Path, device: torch.device) -> None:
        if recipe.model not in OSTRACK_CONFIGS:
            raise ValueError(
                f"model {recipe.model!r} cannot be trained; expected one of "
                f"{', '.join(OSTRACK_CONFIGS)}"
            )
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
        self.config = OSTRACK_CONFIGS[recipe.model]
        self.network = OSTrackNetwork(self.config).to(device)
        if self.config.stem == "conv":
            begin_from_scratch(self.network, recipe.similar_query_key)
        if recipe.start_from:
            begin_from_weights(self.network, Path(recipe.start_from).expanduser())
        self.average = copy.deepcopy(self.network).eval().requires_grad_(False)
        self.optimiser = torch.optim.AdamW(self._groups(), lr=recipe.learning_rate)
        # On a CPU the fused kernel's backward pass is slower than plain products at these sizes.
        cpu = device.type == "cpu"
        self.attention = [SDPBackend.MATH] if cpu else list(FUSED_FIRST)
        self.step, self.pairs_seen, self.seconds = 0, 0, 0.0
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / CHECKPOINT).exists():
            self._resume()
        self.model: nn.Module = self.network
        if self.world_size > 1:
            self.model = nn.parallel.DistributedDataParallel(self.network)

    def _groups(self) -> list[dict]:
        backbone = list(self.network.backbone.parameters())
        return [
            {
                "params": backbone,
                "scale": self.recipe.backbone_multiplier,
                "weight_decay": self.recipe.weight_decay,
            },
            {
                "params": list(self.network.box_head.parameters()),
                "scale": 1.0,
                "weight_decay": self.recipe.weight_decay,
            },
        ]

    def _resume(self) -> None:
        state = torch.load(self.folder / CHECKPOINT, map_location=self.device, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.pairs_seen = state["step"], state["pairs_seen"]
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
            "pairs_seen": self.pairs_seen,
            "seconds": self.seconds,
        }
        partial = self.folder / f"{CHECKPOINT}.partial"
        torch.save(state, partial)
        partial.replace(self.folder / CHECKPOINT)

    def run(self) -> OSTrackNetwork:
        """Train to the recipe's last step. Returns the averaged network, in eval mode."""
        recipe = self.recipe
        stream = batches(recipe, self.config, self.step, self.device, self.rank, self.world_size)
        checks = self._validation_batches() if self.rank == 0 else []
        bar = tqdm(total=recipe.steps, initial=self.step, desc=recipe.model, disable=self.rank > 0)
        began = time.monotonic()
        while self.step < recipe.steps:
            terms = self._train_step(next(stream))
            self.step += 1
            self.pairs_seen += recipe.batch_size * self.world_size
            now = time.monotonic()
            self.seconds, began = self.seconds + now - began, now
            bar.update()
            if self.step % 20 == 0:
                bar.set_postfix({name: f"{value:.3f}" for name, value in terms.items()})
            if self.step % recipe.validate_every == 0 or self.step == recipe.steps:
                if self.rank == 0:
                    self._log(terms, validate(self.average, checks))
                self.save()
        bar.close()
        return self.average

    def _train_step(self, batch: PairBatch) -> dict[str, float]:
        # Draws within the step depend on the step alone, so that a resumed run repeats them.
        torch.manual_seed(self.recipe.seed * 1_000_003 + self.step)
        rate = self.recipe.rate(self.step)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["scale"]
        self.model.train()
        template = normalise(batch.template.to(self.device))
        search = normalise(batch.search.to(self.device))
        half = self.recipe.precision == "bf16"
        epoch = 1 + self.step // self.recipe.steps_per_epoch
        keep_rate = keep_rate_at(epoch, final_rate=self.config.ce_keep_ratio)
        template_boxes = batch.template_boxes.to(self.device)
        mask = self.network.template_mask(template_boxes)
        with (
            torch.autocast(self.device.type, torch.bfloat16, enabled=half),
            sdpa_kernel(self.attention),
        ):
            prediction = self.model(template, search, mask, keep_rate, template_boxes)
        losses = pair_losses(
            prediction, batch.boxes.to(self.device), batch.present.to(self.device)
        )
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

    def _validation_batches(self) -> list[PairBatch]:
        source = open_source(
            self.recipe.sources[0], self.recipe, self.config, torch.device("cpu"), True
        )
        count = max(1, self.recipe.validation_pairs // 64)
        return [source.batch(64, VALIDATION_SEED + i) for i in range(count)]

    def _log(self, terms: dict[str, float], result: Validation) -> None:
        line = {
            "step": self.step,
            "pairs": self.pairs_seen,
            "seconds": round(self.seconds, 1),
            "learning_rate": self.recipe.rate(self.step - 1),
            **{name: round(value, 5) for name, value in terms.items()},
            **asdict(result),
        }
        with (self.folder / LOG).open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
        plot_curve(self.folder / LOG, self.folder / "curve.png")
        tqdm.write(
            f"step {self.step}: validation IoU {result.mean_iou:.3f}, "
            f"found {result.found:.3f}, false alarms {result.false_alarms:.3f}"
        )
