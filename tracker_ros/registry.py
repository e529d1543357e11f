# SPDX-License-Identifier: Apache-2.0
"""Lists the models and makes their trackers, on the device and back end that are asked for.

Listing models imports neither torch nor a network: a family's code is imported when one of its
models is created.
"""

from __future__ import annotations

import ctypes
import fnmatch
import importlib
import logging
import os
import re
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracker_ros.cache import cache_folder
from tracker_ros.engines.graph import EngineUnavailable
from tracker_ros.model_cards import (
    FAMILIES,
    ModelCard,
    embedded_file,
    embedded_graphs,
    model_cards,
    similar_names,
)
from tracker_ros.model_options import checked_options, known_options, shown
from tracker_ros.tracker import Tracker

if TYPE_CHECKING:
    import torch
    from torch import nn

    from tracker_ros.engines.graph import Graph

BACKENDS = ("auto", "torch", "onnxruntime", "tensorrt")
PRECISIONS = ("auto", "fp32", "fp16", "bf16", "int8")
_LOG = logging.getLogger(__name__)
_DEVICE = re.compile(r"auto|cpu|cuda(?::(\d+))?")


def _imported(path: str) -> Any:
    """Import the object of an import path "module:name"."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def list_models(pattern: str = "*") -> list[str]:
    """Return the sorted names of the models that `create_tracker` knows and that match a pattern.

    The pattern has the wildcards of the shell, such as "grm*".
    """
    return fnmatch.filter(model_cards(), pattern)


def model_card(name: str) -> ModelCard:
    """Return the facts about a model; raises ValueError, with similar names, if there is none."""
    cards = model_cards()
    if name not in cards:
        raise ValueError(f"model {name!r} is unknown; {similar_names(name, cards)}")
    return cards[name]


def empty_network(name: str) -> nn.Module:
    """Return a model's network with its keys and shapes but no values (on torch's meta device)."""
    return _imported(FAMILIES[model_card(name).family].network)(name)


def matching_models(state: Mapping[str, torch.Tensor]) -> tuple[str, ...]:
    """Return the models whose keys and shapes are exactly those of a network's tensors."""
    names = list_models()
    return tuple(n for n in names if _shapes(state) == _shapes(empty_network(n).state_dict()))


def _shapes(state: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in state.items()}


def models_to_train_from(state: Mapping[str, torch.Tensor]) -> tuple[str, ...]:
    """Return the models whose training can start from these tensors of a pretrained backbone."""
    from tracker_ros.models.one_stream.network import is_added_to_classifier

    def start(name: str) -> dict[str, torch.Tensor]:
        own = empty_network(name).state_dict()
        return {key: tensor for key, tensor in own.items() if not is_added_to_classifier(key)}

    names = [name for name in list_models() if model_card(name).family in ("grm", "ostrack")]
    return tuple(name for name in names if _shapes(state) == _shapes(start(name)))


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
    """Make a tracker; call its `initialize` before `track`.

    Args:
        name: One of `list_models()`.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        weights: A safetensors file; None takes the embedded one.
        backend: `auto`, `torch`, `onnxruntime` or `tensorrt`; see
            `tracker_ros.engines.select_backend`.
        precision: `auto`; `fp32`; `fp16` on GPUs and in ONNX Runtime; on CPUs, for families that
            have it, `int8` in ONNX Runtime and `bf16` in torch. With `auto` as back end, `fp32`
            takes the place of what a model or CPU lacks, and the log says so.
        engine_cache_dir: Where exported graphs and built engines are kept; None for the user's
            cache.
        build_engine: Whether a back end that is chosen by name may export missing graphs and
            build missing engines, for minutes. `auto` exports and builds nothing.
        **options: Options of the model's family, by name; `model_options(name)` lists them.
            Values may be texts, as on a command line.

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
    if not is_device_name(device):
        raise ValueError(f"device {device!r} is unknown; expected auto, cpu, cuda or cuda:N")
    make = _maker(name, weights, options)
    problem = ""
    if _may_be_embedded(weights, device, backend, precision):
        try:
            return _calibrated(_embedded_tracker(name, make, precision), name)
        except EngineUnavailable as error:
            problem = str(error)
            _LOG.info("%s does not run on its embedded graphs: %s", name, problem)

    def in_single() -> Tracker:
        _LOG.warning("%s runs in fp32, not in %s: %s", name, precision, problem)
        given = engine_cache_dir, build_engine
        return create_tracker(name, device, weights, backend, "fp32", *given, **options)

    reduced = backend == "auto" and precision in ("bf16", "int8")
    if not find_spec("torch"):
        problem = problem or (
            f"its weights, device {device!r}, backend {backend!r} or precision {precision!r} need "
            "more than embedded graphs, which are for a CPU in fp32 or int8"
        )
        if reduced:
            return in_single()
        raise ValueError(
            f"{name} cannot run: {problem}; and PyTorch is not installed, which could take its "
            "place: pip install torch"
        )
    from tracker_ros.engines.select_backend import Backend, BackendUnavailable, open_tracker
    from tracker_ros.following.timing import seconds_per_frame

    cache = _engine_folder(backend) if engine_cache_dir is None else Path(engine_cache_dir)
    wanted = Backend(backend, resolve_device(device), precision, name, cache, build_engine)
    try:
        tracker = open_tracker(make, wanted, seconds_per_frame)
    except BackendUnavailable as error:
        if not reduced:
            raise
        problem = str(error)
        return in_single()
    return tracker if weights is not None else _calibrated(tracker, name)


def _calibrated(tracker: Tracker, name: str) -> Tracker:
    """Return the tracker, its scores read as those of the embedded weights."""
    tracker.calibration = model_card(name).calibration or tracker.calibration
    return tracker


def _may_be_embedded(
    weights: str | os.PathLike[str] | None, device: str, backend: str, precision: str
) -> bool:
    """Tell whether graphs that are part of the package could serve what is asked for."""
    return (
        weights is None
        and backend in ("auto", "onnxruntime")
        and precision in ("auto", "fp32", "int8")
        and (device == "cpu" or (device == "auto" and not _sees_gpu()))
    )


def _embedded_tracker(name: str, make: Callable[[Any], Tracker], precision: str) -> Tracker:
    """Make a tracker on the graphs that are part of the package.

    Raises EngineUnavailable if there are none for it, or ONNX Runtime is not installed; ValueError
    if their files are damaged.
    """
    from tracker_ros.engines.embedded import EmbeddedModel
    from tracker_ros.engines.onnx_session import INSTALL_RUNTIME, can_run

    path = _weights_path(name, None)
    folder = embedded_graphs(path.stem)
    if not folder.is_dir():
        raise EngineUnavailable(f"the package has no {folder}; install it again")
    if not can_run():
        raise EngineUnavailable(f"ONNX Runtime is not installed: {INSTALL_RUNTIME}")
    embedded = EmbeddedModel(folder, path, "fp32" if precision == "auto" else precision)
    tracker = make(embedded)
    _LOG.info("%s runs on onnxruntime, by graphs that are part of the package", name)
    return tracker


def _sees_gpu() -> bool:
    """Tell whether torch may find a GPU: both are there, torch and NVIDIA's driver."""
    if not find_spec("torch"):
        return False
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return resolve_device("auto").type == "cuda"


def _engine_folder(backend: str) -> Path:
    """Return the user's folder of engines; without a home, one that cannot hold any."""
    try:
        return cache_folder("engines")
    except RuntimeError as error:
        if backend in ("onnxruntime", "tensorrt"):
            raise ValueError(f"{error}, or give engine_cache_dir") from error
        return Path(os.devnull) / "engines"


def model_graphs(
    name: str, weights: str | os.PathLike[str] | None = None, **options: Any
) -> list[Graph]:
    """Return the static graphs that a model's engines compute.

    Arguments and errors are those of `create_tracker`.
    """
    from tracker_ros.engines.select_backend import collect_graphs

    return collect_graphs(_maker(name, weights, options))


def _weights_path(name: str, weights: str | os.PathLike[str] | None) -> Path:
    """Return the file that a model's weights are read from."""
    card = model_card(name)
    if weights is not None:
        return Path(weights)
    if card.weights is None and card.checkpoint is None:
        raise ValueError(
            f"model {name!r} has no embedded weights; train it with `tracker-ros train "
            f"recipes/{name}.yaml`, and pass weights='runs/{name}/{name}.safetensors'"
        )
    if card.weights is None:
        raise ValueError(
            f"model {name!r} has no embedded weights; download the authors' checkpoint from "
            f"{card.code} (its model zoo), convert it once with `tracker-ros convert-checkpoint "
            f"{card.checkpoint} weights.safetensors`, and pass weights='weights.safetensors'"
        )
    return embedded_file(card.weights)


def model_options(name: str) -> dict[str, str]:
    """Return the options of a model as they are written, each with the value it has without."""
    family = FAMILIES[model_card(name).family]
    known = known_options(_imported(family.create), family.settings(name))
    return {option: shown(default) for option, (_, default) in known.items()}


def _maker(
    name: str, weights: str | os.PathLike[str] | None, options: dict[str, Any]
) -> Callable[[Any], Tracker]:
    """Return what makes a model's tracker on a back end; everything else is checked here."""
    card, path = model_card(name), _weights_path(name, weights)
    sha256 = card.sha256 if weights is None else None
    family = FAMILIES[card.family]
    factory = _imported(family.create)
    checked = checked_options(factory, name, options, family.settings(name))
    return lambda backend: factory(name, backend=backend, weights=path, sha256=sha256, **checked)


def is_device_name(text: str) -> bool:
    """Tell whether a text has the form of a device: `auto`, `cpu`, `cuda` or `cuda:N`."""
    return _DEVICE.fullmatch(text) is not None


def resolve_device(device: str) -> torch.device:
    """Return the torch device of `auto` (the first GPU, else the CPU), `cpu`, `cuda` or `cuda:N`.

    Raises ValueError for another name, or a GPU that this machine or this build of torch lacks.
    """
    import torch

    match = _DEVICE.fullmatch(device)
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
