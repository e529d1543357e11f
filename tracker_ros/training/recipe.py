# SPDX-License-Identifier: Apache-2.0
"""Training recipes: frozen dataclasses, read from YAML by `dacite`."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from reprlib import repr as short_repr
from typing import Any, TypeVar

import yaml
from dacite import Config, DaciteFieldError, from_dict

from tracker_ros.synthetic.crops import PairConfig
from tracker_ros.synthetic.moving_scenes import FrameConfig
from tracker_ros.synthetic.photometric import PhotometricConfig
from tracker_ros.synthetic.samples import ClipConfig

T = TypeVar("T")
PRECISIONS = ("fp32", "bf16")
BOX_LOSSES = ("overlap", "density")
LARGEST = 10**9
"""Limit of every number in a recipe."""
RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("steps", "validate_every", "validation_samples"), (1, LARGEST)),
    **dict.fromkeys(("steps_per_epoch", "proposals", "train_crops", "test_crops"), (1, LARGEST)),
    **dict.fromkeys(("average_decay", "meeting_share", "smallest", "largest"), (0, 1)),
    **dict.fromkeys(("drop_path", "ce_keep_ratio"), (0, 1)),
    "frames": (2, LARGEST),
    "size": (16, 8192),
}
"""What a number may be by its name; fractions are from 0 to 1, other numbers from 0 on."""


@dataclass(frozen=True)
class Source:
    """Where training samples come from."""

    # "synthetic" (the scene generator), "footage" (real clips without labels), "got10k", "lasot",
    # "trackingnet", "coco", or "videos" (a folder of videos or frames)
    kind: str = "synthetic"
    weight: float = 1.0  # share of the batches drawn from this source, relative to the others'
    # root folder of a data set, an ``.npz`` of clips for "footage", or a texture bank (``.npz``)
    # for "synthetic"; without a bank, procedural textures are used
    path: str = ""
    split: str = "train"  # part of a data set to use: "train" or "val"


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the outcome of a training run.

    The learning rate rises over ``warmup_steps``, stays, and falls linearly to zero over the last
    ``decay_steps`` of ``steps``. To lengthen a run, raise ``steps`` and resume from a checkpoint
    that was written before the decay.

    Every step draws ``batch_size`` samples from ``sources``: pairs of crops for one-stream
    trackers, clips of several crops for trackers that learn online, runs of consecutive frames for
    trackers that match whole images. ``pairs`` describes the scenes of pairs and clips.
    """

    model: str = "ostrack_tiny"  # name of the model to train
    seed: int = 0  # decides everything that is random
    steps: int = 20_000
    batch_size: int = 64
    learning_rate: float = 6e-4
    backbone_multiplier: float = 1.0  # learning rate of the backbone over that of the rest
    weight_decay: float = 1e-4
    warmup_steps: int = 500
    decay_steps: int = 5_000
    gradient_clip: float = 1.0  # maximum norm of the gradient
    # decay of the moving average of the weights, which is what is saved
    average_decay: float = 0.999
    similar_query_key: float = 0.05  # see `initialisation.begin_from_scratch`
    # mean share of search tokens that GRM compares with the template; 0 does not control it, as
    # officially
    meeting_share: float = 0.0
    precision: str = "bf16"  # "fp32" or "bf16"
    # stochastic depth of the last block of a one-stream tracker, rising from 0 in the first;
    # officially 0.1
    drop_path: float = 0.0
    # share of the search tokens that an elimination of OSTrack keeps in the end; 0 takes the
    # model's
    ce_keep_ratio: float = 0.0
    ce_start_epoch: int = 20  # epoch, counted from 1, until which eliminations keep all tokens
    ce_warm_epochs: int = 80  # epochs over which their share then falls to `ce_keep_ratio`
    # steps that count as an epoch in the schedule of candidate elimination; by default 60,000
    # pairs in batches of 32, as officially
    steps_per_epoch: int = 1_875
    loader_workers: int = 1  # processes that draw samples where the training process does not
    threads: int = 0  # threads of torch; 0 leaves their number alone
    validate_every: int = 500
    validation_samples: int = 512
    # a safetensors file of the whole model's weights or of a pretrained classifier's backbone, or
    # the name of a model with embedded weights
    start_from: str = ""
    sources: tuple[Source, ...] = (Source(),)
    pairs: PairConfig = PairConfig()
    clips: ClipConfig = ClipConfig()  # number of crops of a clip, and the target's place in them
    # layers of the backbone of TrDiMP and TrSiam that stay as they are; officially [conv1, bn1,
    # layer1, layer2] of a pretrained ResNet-50
    frozen_layers: tuple[str, ...] = ()
    # what the IoU branch learns: "overlap", the IoU of proposals; or "density", as officially, the
    # logarithm of a density of boxes, up to a constant
    box_loss: str = "overlap"
    filter_iterations: int = 5  # unrolled steps of the filter's optimiser
    proposals: int = 8  # boxes that the IoU branch judges per crop; officially 128
    later_crops: int = 3  # number of search crops of a clip for trackers with templates
    frozen_steps: int = 0  # first steps, in which a pretrained body stays as it is
    # in those steps, how often features of the body are used again, on average. Of `replays` + 1
    # steps, only one draws new samples.
    replays: int = 0
    frames: FrameConfig = FrameConfig()  # the runs of consecutive frames
    # first steps, in which a frame is matched with its neighbour alone; later ones match it with
    # all earlier frames of its run
    one_reference_steps: int = 0
    # first step of the dynamic stage, in which the first frame of a run lies `frames.far_gap`
    # frames back and is looked up where a wide search finds it; 0 for none
    dynamic_from: int = 0

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision {self.precision!r}: expected {' or '.join(PRECISIONS)}")
        if self.box_loss not in BOX_LOSSES:
            raise ValueError(f"box_loss {self.box_loss!r}: expected {' or '.join(BOX_LOSSES)}")
        if self.dynamic_from and not self.frames.far_gap:
            raise ValueError(
                f"dynamic_from {self.dynamic_from}: the dynamic stage needs frames.far_gap above 0"
            )
        if not 0 <= self.warmup_steps + self.decay_steps <= self.steps:
            raise ValueError(
                f"warmup_steps {self.warmup_steps} + decay_steps {self.decay_steps}: expected at "
                f"most steps, {self.steps}"
            )
        if self.batch_size < 2:
            raise ValueError(f"batch_size {self.batch_size}: batch normalisation needs at least 2")
        if not self.sources or any(source.weight <= 0 for source in self.sources):
            raise ValueError("sources: expected at least one, each with a weight above 0")

    def draws(self, step: int) -> bool:
        """Tell whether a step draws new samples; see `replays`."""
        return step >= self.frozen_steps or step % (self.replays + 1) == 0

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        rise = min(1.0, (step + 1) / max(1, self.warmup_steps))
        fall = min(1.0, (self.steps - step) / max(1, self.decay_steps))
        return self.learning_rate * min(rise, fall)


class _Mistake(DaciteFieldError):
    """What is wrong with a value; `dacite` adds the path of its key."""

    def __init__(self, problem: str) -> None:
        super().__init__()
        self.problem = problem


def _checked(kind: type[T], expected: str, value: Any) -> T:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise _Mistake(f"expected {expected}, got {short_repr(value)}")
    return value


def _number(value: Any) -> float:
    number: int | float = _checked(int | float, "a number", value)  # type: ignore[arg-type]
    if abs(number) > LARGEST or not math.isfinite(number):
        raise _Mistake(f"expected a finite number, got {short_repr(number)}")
    return float(number)


def _read(cls: type[T], values: Any) -> T:
    known = [f.name for f in fields(cls)]  # type: ignore[arg-type]
    unknown = [str(key) for key in _checked(dict, "a mapping", values) if key not in known]
    if unknown:
        near = [f"{k!r} for {n!r}" for n in unknown for k in get_close_matches(n, known, n=1)]
        hint = f"did you mean {', '.join(near)}? " if near else ""
        raise _Mistake(f"unknown {', '.join(unknown)}; {hint}known: {', '.join(known)}")
    read = from_dict(cls, values, Config(type_hooks=_HOOKS))
    for name in values:
        _check_range(name, getattr(read, name))
    return read


def _check_range(name: str, value: Any) -> None:
    """Refuse a number that is outside the range of its name."""
    low, high = RANGES.get(name, (0, 1 if name.endswith("_fraction") else LARGEST))
    if isinstance(value, int | float) and not low <= value <= high:
        mistake = _Mistake(f"expected a number from {low} to {high}, got {short_repr(value)}")
        mistake.update_path(name)
        raise mistake


def _read_names(values: Any) -> tuple[str, ...]:
    return tuple(_checked(str, "text", value) for value in _checked(list, "a list", values))


def _read_sources(values: Any) -> tuple[Source, ...]:
    sources = []
    for index, value in enumerate(_checked(list, "a list", values)):
        try:
            sources.append(_read(Source, value))
        except DaciteFieldError as error:
            error.update_path(f"[{index}]")
            raise
    return tuple(sources)


_HOOKS: dict[Any, Any] = {
    int: partial(_checked, int, "a whole number"),
    str: partial(_checked, str, "text"),
    float: _number,
    tuple[Source, ...]: _read_sources,
    tuple[str, ...]: _read_names,
    **{
        cls: partial(_read, cls)
        for cls in (PairConfig, PhotometricConfig, ClipConfig, FrameConfig)
    },
}
"""How `dacite` makes values of a type: it alone would not say where and why a value is wrong."""


def load_recipe(path: str | Path) -> Recipe:
    """Read a recipe.

    Raises FileNotFoundError, or ValueError if it is not YAML, has an unknown key, or a value of
    the wrong type or range; the message names file, key, value and what was expected.
    """
    name = Path(path).name
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        return _read(Recipe, {} if values is None else values)
    except _Mistake as error:
        place = f"{name}.{error.field_path}".replace(".[", "[") if error.field_path else name
        raise ValueError(f"{place}: {error.problem}") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{name}: expected YAML; {error}") from error
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
