# SPDX-License-Identifier: Apache-2.0
"""Which trackers there are, and how to make one.

Listing models imports no network: a family's code is named by its import path and imported when
one of its models is created.

Options of a model's family: written as NAME=VALUE, checked against what its factory takes.

A factory's own signature says which options there are, of which type and with which default, so
there is no second list to keep.

Which processor a model runs on.
"""

from __future__ import annotations

import difflib
import fnmatch
import importlib
import inspect
import math
import os
import re
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracker_ros.cache import cache_folder
from tracker_ros.model_cards import FAMILIES, ModelCard, embedded_file, model_cards
from tracker_ros.tracker import Tracker

if TYPE_CHECKING:
    import torch
    from torch import nn

    from tracker_ros.engines.graph import Graph
    from tracker_ros.engines.select_backend import Backend

BACKENDS = ("auto", "torch", "onnxruntime", "tensorrt")
_EXPORTED_UNASKED_BYTES = 32_000_000
PRECISIONS = ("auto", "fp32", "fp16", "bf16", "int8")


def _imported(path: str) -> Any:
    """Return what an import path "module:name" names."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def list_models(pattern: str = "*") -> list[str]:
    """List the models that `create_tracker` knows.

    Args:
        pattern: Which names, with the wildcards of the shell, as "grm*".

    Returns:
        The names that match, sorted; empty if none does.
    """
    return fnmatch.filter(model_cards(), pattern)


def model_card(name: str) -> ModelCard:
    """What is known of a model.

    Raises:
        ValueError: There is no such model; the message names similar ones.
    """
    cards = model_cards()
    if name not in cards:
        close = difflib.get_close_matches(name, cards, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(cards)}"
        raise ValueError(f"model {name!r} is unknown; {hint}")
    return cards[name]


def empty_network(name: str) -> nn.Module:
    """A model's network with its keys and shapes but no values (on torch's meta device).

    Raises:
        ValueError: There is no such model.
    """
    return _imported(FAMILIES[model_card(name).family].network)(name)


def create_tracker(
    name: str,
    device: str = "auto",
    weights: str | os.PathLike[str] | None = None,
    backend: str = "auto",
    precision: str = "auto",
    engine_cache_dir: str | os.PathLike[str] | None = None,
    build_engine: bool = True,
    **options: Any,
) -> Tracker:
    """Make a tracker, ready to be initialised.

    Args:
        name: One of `list_models()`.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        weights: A safetensors file; None takes the embedded one.
        backend: `auto`, `torch`, `onnxruntime` or `tensorrt`; see
            `tracker_ros.engines.select_backend`.
        precision: `auto`; `fp32`; `fp16` on GPUs and in ONNX Runtime; `bf16` and `int8` in torch
            on CPUs.
        engine_cache_dir: Where exported graphs and built engines are kept; None for the user's
            cache.
        build_engine: Whether what is not there may be exported, for seconds, and built, for
            minutes. `auto` exports small networks for ONNX Runtime on a CPU, and builds nothing.
        **options: Options of the model's family, see its factory: `threshold` for GRM,
            `working_size`, `start_shape` and others for MAST, `seed` for TrDiMP and TrSiam;
            OSTrack has none. They may be texts, as on a command line.

    Raises:
        ValueError: An argument is unknown or not available here, the model has no embedded
            weights, or the weights do not fit; the message names value, expectation and remedy.
        FileNotFoundError: The weights file does not exist.
    """
    for what, value, known in (
        ("backend", backend, BACKENDS),
        ("precision", precision, PRECISIONS),
    ):
        if value not in known:
            raise ValueError(
                f"{what} {value!r} is not available for {name}; expected {' or '.join(known)}"
            )
    make = _maker(name, weights, options)
    if backend == "auto" and _is_large(_weights_path(name, weights)):
        build_engine = False
    from tracker_ros.engines.select_backend import Backend, open_tracker
    from tracker_ros.following.timing import seconds_per_frame

    cache = _engine_folder(backend) if engine_cache_dir is None else Path(engine_cache_dir)
    wanted = Backend(backend, resolve_device(device), precision, name, cache, build_engine)
    return open_tracker(make, wanted, seconds_per_frame)


def _is_large(weights: Path) -> bool:
    """Whether exporting a network takes minutes and gigabytes, to be spent on demand only."""
    return weights.is_file() and weights.stat().st_size > _EXPORTED_UNASKED_BYTES


def _engine_folder(backend: str) -> Path:
    """Where engines are kept; where there is no home, a folder in which nothing can be."""
    try:
        return cache_folder("engines")
    except RuntimeError as error:
        if backend in ("onnxruntime", "tensorrt"):
            raise ValueError(f"{error}, or give engine_cache_dir") from error
        return Path(os.devnull) / "engines"


def model_graphs(
    name: str, weights: str | os.PathLike[str] | None = None, **options: Any
) -> list[Graph]:
    """The static graphs that a model's engines compute.

    Args:
        name: See `create_tracker`, also for the others and for what is raised.
        weights: A safetensors file; None takes the embedded one.
        **options: Of the model's family.
    """
    from tracker_ros.engines.select_backend import collect_graphs

    return collect_graphs(_maker(name, weights, options))


def _weights_path(name: str, weights: str | os.PathLike[str] | None) -> Path:
    """The file that a model's weights are read from."""
    card = model_card(name)
    if weights is not None:
        return Path(weights)
    if card.weights is None:
        raise ValueError(
            f"model {name!r} has no embedded weights; download the authors' checkpoint from "
            f"{card.code} (its model zoo), convert it once with `tracker-ros convert-checkpoint "
            f"{card.checkpoint} weights.safetensors`, and pass weights='weights.safetensors'"
        )
    return embedded_file(card.weights)


def _maker(
    name: str, weights: str | os.PathLike[str] | None, options: dict[str, Any]
) -> Callable[[Backend], Tracker]:
    """What makes a model's tracker on a back end; everything else is checked here."""
    card, path = model_card(name), _weights_path(name, weights)
    sha256 = card.sha256 if weights is None else None
    factory = _imported(FAMILIES[card.family].create)
    checked = checked_options(factory, name, ("backend", "weights", "sha256"), options)
    return lambda backend: factory(name, backend=backend, weights=path, sha256=sha256, **checked)


_WORDS = {bool: "true or false", int: "an integer", float: "a number", str: "a word"}
_OWN_ARGUMENTS = (
    "name",
    "device",
    "weights",
    "backend",
    "precision",
    "engine_cache_dir",
    "build_engine",
)
"""Of `create_tracker`, beside the options."""
_TRUTH = {"true": True, "false": False}


def parse_options(texts: Iterable[str]) -> dict[str, Any]:
    """Read options as they are written on a command line.

    Args:
        texts: Each NAME=VALUE.

    Raises:
        ValueError: One is written otherwise, or a name comes twice.
    """
    options: dict[str, Any] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if not name.isidentifier() or not value:
            raise ValueError(f"option {text!r} is unreadable; write NAME=VALUE, as threshold=0.4")
        if name in _OWN_ARGUMENTS:
            raise ValueError(f"{name!r} is no option of a model's family; it is given by itself")
        if name in options:
            raise ValueError(f"option {name!r} is given twice; leave one out")
        options[name] = value
    return options


def checked_options(
    factory: Callable[..., Any], model: str, given: Collection[str], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Options in the types that a model's factory wants.

    Args:
        factory: Its parameters, but the first and those in `given`, are the options.
        model: Name of the model, for messages.
        given: Names of parameters that come from elsewhere.
        options: Values by name; texts become numbers or truth values where those are wanted.

    Raises:
        ValueError: There is no such option, or the value is of another type.
    """
    hints = typing.get_type_hints(factory)
    first, *others = inspect.signature(factory).parameters.values()
    known = {p.name: p for p in others if p.name not in given}
    kinds = {name: typing.get_args(hints[name]) or (hints[name],) for name in known}
    result = {}
    for name, value in options.items():
        if name not in known:
            remedy = ", ".join(
                f"{n} ({_wanted(kinds[n])}; without it {p.default})" for n, p in known.items()
            )
            raise ValueError(
                f"model {model} has no option {name!r}; "
                + (f"it takes {remedy}" if remedy else "it takes none")
            )
        result[name] = _converted(value, kinds[name])
        if result[name] is None and not (value is None and type(None) in kinds[name]):
            raise ValueError(
                f"option {name} of model {model} is {value!r}; expected {_wanted(kinds[name])}"
            )
    return result


def _wanted(kinds: Collection[type]) -> str:
    return " or ".join(words for kind, words in _WORDS.items() if kind in kinds)


def _converted(value: Any, kinds: Collection[type]) -> Any:
    """The value as the first of bool, int, float and str that is wanted and fits, else None."""
    if isinstance(value, str):
        if bool in kinds and value.lower() in _TRUTH:
            return _TRUTH[value.lower()]
        for kind in (int, float):
            if kind in kinds:
                try:
                    return kind(value)
                except ValueError:
                    continue
        return value if str in kinds else None
    if isinstance(value, bool):
        return value if bool in kinds else None
    if isinstance(value, int):
        return value if int in kinds else float(value) if float in kinds else None
    return value if isinstance(value, float) and float in kinds and math.isfinite(value) else None


_NAME = re.compile(r"auto|cpu|cuda(?::(\d+))?")


def is_device_name(text: str) -> bool:
    """Whether a text has the form of a device: `auto`, `cpu`, `cuda` or `cuda:N`."""
    return _NAME.fullmatch(text) is not None


def resolve_device(device: str) -> torch.device:
    """The torch device that `device` names.

    Args:
        device: `auto` (the first GPU if there is one, else the CPU), `cpu`, `cuda` or `cuda:N`.

    Raises:
        ValueError: Another word, or a GPU that this machine or this build of torch lacks.
    """
    import torch

    match = _NAME.fullmatch(device)
    if match is None:
        raise ValueError(f"device {device!r} is unknown; expected auto, cpu, cuda or cuda:N")
    if device == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    if device == "cpu":
        return torch.device("cpu")
    index = int(match.group(1) or 0)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if index >= count:
        raise ValueError(
            f"device {device!r} is not there: torch {torch.__version__} sees {count} CUDA "
            "device(s); use device='auto' or 'cpu', or install a CUDA build of torch"
        )
    return torch.device("cuda", index)
