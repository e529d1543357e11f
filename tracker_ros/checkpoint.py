# SPDX-License-Identifier: Apache-2.0
"""Official checkpoints to safetensors, without running what is pickled in them.

Released checkpoints are whole trainer states: beside the tensors they pickle objects of the
trainer's own classes, which nobody else can import. torch's restricted unpickler reads the file;
it is handed inert placeholders for the classes of known research packages, and anything else that
the file names (`os.system`, say) is refused before a byte of it is unpickled.
"""

from __future__ import annotations

import os
import pickle
import pickletools
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tracker_ros.weight_files import sha256_of, write_weights

# Packages whose classes official checkpoints are known to pickle; none of them is ever imported.
PLACEHOLDER_PACKAGES = ("lib", "ltr", "pytracking", "easydict", "yacs", "numpy")
_STATE_KEYS = ("net", "state_dict", "model")

# The format before torch 1.6: magic number, version, system, content, names of the storages.
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PICKLES = 5
_CONTAINERS = (
    "collections.OrderedDict",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
)


class Placeholder:
    """Stands for an object of a class that is not needed: takes any state and does nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        """Drop a pickled list's item."""

    def extend(self, items: Any) -> None:
        """Drop a pickled list's items."""


@dataclass(frozen=True)
class ConvertedCheckpoint:
    """What `convert_checkpoint` wrote.

    Attributes:
        path: The safetensors file.
        sha256: Its hash.
        tensors: Number of tensors.
        values: Number of values in them.
        models: Registered models whose keys and shapes are exactly these.
    """

    path: Path
    sha256: str
    tensors: int
    values: int
    models: tuple[str, ...]


def convert_checkpoint(
    path: str | os.PathLike[str], out: str | os.PathLike[str], *, half: bool = False
) -> ConvertedCheckpoint:
    """Copy the network of a `.pth.tar` checkpoint into a safetensors file.

    Args:
        path: The checkpoint; its tensors are under `net`, `state_dict` or `model`, or are the
            whole file.
        out: The safetensors file to write; an existing one is replaced.
        half: Store floating-point tensors as float16.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        ValueError: Not a torch checkpoint, one that names code outside the known research
            packages, or one without tensors where they are expected.
    """
    state = read_checkpoint(path)
    source = {"source_sha256": sha256_of(path)}
    digest = write_weights(state, out, half=half, metadata=source)
    values = sum(tensor.numel() for tensor in state.values())
    return ConvertedCheckpoint(Path(out), digest, len(state), values, matching_models(state))


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint by name, a leading `module.` removed.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: See `convert_checkpoint`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {path} does not exist; expected a .pth.tar file")
    content = _load_inert(path)
    for key in _STATE_KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not content:
        raise ValueError(
            f"checkpoint {path.name} holds a {type(content).__name__}; expected tensors by name, "
            f"alone or under one of {', '.join(_STATE_KEYS)}"
        )
    foreign = [str(key) for key, value in content.items() if not torch.is_tensor(value)]
    if foreign:
        raise ValueError(
            f"checkpoint {path.name} has values that are not tensors ({', '.join(foreign[:5])}); "
            f"expected tensors by name, alone or under one of {', '.join(_STATE_KEYS)}"
        )
    return {str(key).removeprefix("module."): value for key, value in content.items()}


def _load_inert(path: Path) -> Any:
    foreign = _zip_classes(path) if zipfile.is_zipfile(path) else _legacy_classes(path)
    refused = [name for name in foreign if name.split(".")[0] not in PLACEHOLDER_PACKAGES]
    if refused:
        raise ValueError(
            f"checkpoint {path.name} names {', '.join(sorted(refused))}, which tensors do not "
            "need; it was not read, since unpickling could run code. Get the checkpoint from its "
            "authors"
        )
    stubs: list[Any] = [
        (type(name.rsplit(".", 1)[-1], (Placeholder,), {}), name) for name in foreign
    ]
    try:
        with torch.serialization.safe_globals(stubs):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
        raise ValueError(
            f"checkpoint {path.name} cannot be read as tensors ({error}); nothing in it was run. "
            "Download it again"
        ) from error


def _zip_classes(path: Path) -> list[str]:
    """Names in a checkpoint of torch 1.6 or later that tensors do not need."""
    try:
        return torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except AttributeError as error:
        raise ValueError(
            f"torch {torch.__version__} cannot list what a checkpoint names; convert with torch "
            "2.6 or later (the result can be used with any)"
        ) from error


def _legacy_classes(path: Path) -> list[str]:
    """The same for the format before torch 1.6: several pickles in a row, then the tensors' bytes.

    Raises:
        ValueError: It is not of that format either.
    """
    names: set[str] = set()
    try:
        with path.open("rb") as stream:
            for part in range(_LEGACY_PICKLES):
                for opcode, argument, _ in pickletools.genops(stream):
                    if part == 0 and opcode.name == "LONG1" and argument != _LEGACY_MAGIC:
                        raise ValueError("another magic number")
                    if part == 0 and opcode.name == "GLOBAL":
                        raise ValueError("no magic number")
                    if opcode.name == "GLOBAL":
                        names.add(str(argument).replace(" ", "."))
    except ValueError as error:
        raise ValueError(
            f"checkpoint {path.name} is not a file of torch.save ({error}); expected an official "
            ".pth or .pth.tar file"
        ) from error
    return sorted(name for name in names if not _is_tensor_part(name))


def _is_tensor_part(name: str) -> bool:
    """Whether torch's restricted unpickler takes a name for a part of a tensor or container."""
    module, _, last = name.rpartition(".")
    return name in _CONTAINERS or (module == "torch" and last.endswith("Storage"))


def matching_models(state: Mapping[str, torch.Tensor]) -> tuple[str, ...]:
    """Registered models whose keys and shapes are exactly those of `state`."""
    from tracker_ros.registry import empty_network, model_names

    found = {key: tuple(tensor.shape) for key, tensor in state.items()}
    return tuple(
        name
        for name in model_names()
        if found == {k: tuple(t.shape) for k, t in empty_network(name).state_dict().items()}
    )
