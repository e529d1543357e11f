# SPDX-License-Identifier: Apache-2.0
"""Training recipes: frozen dataclasses filled from YAML."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from tracker_ros.synthetic.clips import ClipConfig
from tracker_ros.synthetic.crops import PairConfig
from tracker_ros.synthetic.moving_scenes import FrameConfig


@dataclass(frozen=True)
class Source:
    """Where training pairs come from.

    Attributes:
        kind: "synthetic" (the scene generator), "footage" (real clips without labels), "got10k",
            "lasot", "trackingnet" or "coco".
        weight: Share of the batches drawn from this source, relative to the others'.
        path: Root folder of a data set, an ``.npz`` of clips for "footage", or a texture bank
            (``.npz``) for "synthetic"; without a bank, procedural textures are used.
        split: Part of a data set to use; each loader documents its names.
    """

    kind: str = "synthetic"
    weight: float = 1.0
    path: str = ""
    split: str = "train"


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the outcome of a training run.

    The learning rate rises over ``warmup_steps``, stays, and falls linearly to zero over the last
    ``decay_steps`` of ``steps``; so a run is lengthened by raising ``steps`` and resuming from a
    checkpoint written before the decay. ``steps_per_epoch`` only times candidate elimination's
    schedule (60,000 pairs in batches of 32 by default, as officially). ``start_from`` names
    safetensors of the whole model or of a pretrained classifier's backbone, or a model whose
    weights are embedded. ``meeting_share`` holds the mean share of search tokens that GRM lets
    meet the template; 0 leaves it free, as officially.

    ``pairs`` says how scenes vary. Models that learn online train on clips of such scenes:
    ``clips`` says of how many crops, ``filter_iterations`` how many steps of the filter's
    optimiser are unrolled, ``proposals`` how many boxes the IoU branch judges per crop. A batch
    has ``batch_size`` pairs or clips.

    Models that match whole images train on runs of consecutive frames, which ``frames``
    describes: each from its neighbour for ``one_reference_steps``, then from all earlier ones.
    """

    model: str = "ostrack_tiny"
    seed: int = 0
    steps: int = 20_000
    batch_size: int = 64
    learning_rate: float = 6e-4
    backbone_multiplier: float = 1.0
    weight_decay: float = 1e-4
    warmup_steps: int = 500
    decay_steps: int = 5_000
    gradient_clip: float = 1.0
    average_decay: float = 0.999
    similar_query_key: float = 0.05
    meeting_share: float = 0.0
    precision: str = "bf16"
    steps_per_epoch: int = 1_875
    loader_workers: int = 1
    threads: int = 0
    validate_every: int = 500
    validation_samples: int = 512
    start_from: str = ""
    sources: tuple[Source, ...] = (Source(),)
    pairs: PairConfig = field(default_factory=PairConfig)
    clips: ClipConfig = field(default_factory=ClipConfig)
    filter_iterations: int = 5
    proposals: int = 8
    frames: FrameConfig = field(default_factory=FrameConfig)
    one_reference_steps: int = 0

    def __post_init__(self) -> None:
        if self.precision not in ("fp32", "bf16"):
            raise ValueError(f"precision {self.precision!r}: expected 'fp32' or 'bf16'")
        if not 0 <= self.warmup_steps + self.decay_steps <= self.steps:
            raise ValueError(
                f"warmup_steps {self.warmup_steps} + decay_steps {self.decay_steps} exceed "
                f"steps {self.steps}"
            )
        if self.batch_size < 2:
            raise ValueError(f"batch_size {self.batch_size}: at least 2 for batch normalisation")
        if not self.sources or any(source.weight <= 0 for source in self.sources):
            raise ValueError("sources: at least one, each with a weight above 0")

    def rate(self, step: int) -> float:
        """Learning rate of a step (0-based)."""
        rise = min(1.0, (step + 1) / max(1, self.warmup_steps))
        fall = min(1.0, (self.steps - step) / max(1, self.decay_steps))
        return self.learning_rate * min(rise, fall)


def _fill(cls: type, values: Any, where: str) -> Any:
    """Build a dataclass from a mapping; errors say where a name or type is wrong."""
    if not isinstance(values, dict):
        raise ValueError(f"{where}: expected a mapping, got {values!r}")
    known = {f.name: f for f in fields(cls)}
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ValueError(f"{where}: unknown {', '.join(unknown)}; known: {', '.join(known)}")
    defaults = cls()
    filled: dict[str, Any] = {}
    for name, value in values.items():
        default, place = getattr(defaults, name), f"{where}.{name}"
        if name == "sources":
            filled[name] = tuple(_fill(Source, v, f"{place}[{i}]") for i, v in enumerate(value))
        elif is_dataclass(default):
            filled[name] = _fill(type(default), value, place)
        elif isinstance(default, float) and isinstance(value, int | float):
            filled[name] = float(value)
        elif type(value) is type(default):
            filled[name] = value
        else:
            raise ValueError(f"{place}: expected {type(default).__name__}, got {value!r}")
    return cls(**filled)


def load_recipe(path: str | Path) -> Recipe:
    """Read a recipe.

    Raises:
        FileNotFoundError: no such file.
        ValueError: an unknown name or a value of the wrong type or range; the message names it.
    """
    import yaml

    text = Path(path).read_text(encoding="utf-8")
    return _fill(Recipe, yaml.safe_load(text) or {}, Path(path).name)
