# SPDX-License-Identifier: Apache-2.0
"""Reads and writes weights as safetensors, and converts official checkpoints to it safely.

A safetensors file holds tensors and nothing that could run. Half precision is used for storage
only; a model computes in float32 unless told otherwise.

Official checkpoints are whole trainer states: beside the tensors they pickle objects of the
trainer's own classes, which nobody else can import. torch's restricted unpickler reads them with
inert placeholders for the classes of known research packages. A file that names anything else
(`os.system`, for example) is refused before a byte of it is unpickled.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import pickletools
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

# Packages whose classes official checkpoints are known to pickle; none of them is ever imported.
PLACEHOLDER_PACKAGES = ("lib", "ltr", "pytracking", "easydict", "yacs", "numpy")
_STATE_KEYS = ("net", "state_dict", "model")
_PICKLES = (".pth", ".pt", ".tar", ".ckpt", ".bin", ".pkl")
_LISTED = 5
# The format before torch 1.6: magic number, version, system, content, names of the storages.
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PICKLES = 5
_CONTAINERS = (
    "collections.OrderedDict",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
)

_Network = TypeVar("_Network", bound=torch.nn.Module)


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Return the hexadecimal sha256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def read_weights(
    path: str | os.PathLike[str], sha256: str | None = None
) -> dict[str, torch.Tensor]:
    """Read every tensor of a safetensors file, half precision widened to float32.

    Args:
        path: The file.
        sha256: Expected hash of the file; None accepts any file.

    Returns:
        Tensors by name.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Not a safetensors file, or another sha256; the message says what to do.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"weights file {path} does not exist; expected a safetensors file")
    if path.suffix in _PICKLES:
        raise ValueError(
            f"weights file {path.name} is a pickle, which can run code when it is read; convert "
            f"it once with `tracker-ros convert-checkpoint {path.name} weights.safetensors`"
        )
    if sha256 is not None and (found := sha256_of(path)) != sha256:
        raise ValueError(
            f"weights file {path.name} has sha256 {found}; expected {sha256} "
            "(the file is damaged or another version: install the package again)"
        )
    try:
        state = load_file(str(path), device="cpu")
    except SafetensorError as error:
        raise ValueError(
            f"weights file {path.name} is not a readable safetensors file ({error}); convert "
            "official checkpoints with `tracker-ros convert-checkpoint`"
        ) from error
    halves = (torch.float16, torch.bfloat16)
    return {key: t.float() if t.dtype in halves else t for key, t in state.items()}


def write_weights(
    state: Mapping[str, torch.Tensor],
    path: str | os.PathLike[str],
    *,
    half: bool = False,
    metadata: Mapping[str, str] | None = None,
) -> str:
    """Write tensors to a safetensors file, which is there whole or not at all.

    Args:
        state: Tensors by name.
        path: The file; an existing one is replaced.
        half: Store floating-point tensors as float16.
        metadata: Strings kept in the file's header.

    Returns:
        The file's sha256.
    """
    from safetensors.torch import save_file

    def stored(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.detach().to("cpu")
        if half and tensor.is_floating_point():
            tensor = tensor.to(torch.float16)
        return tensor.clone(memory_format=torch.contiguous_format)

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".partial")
    os.close(handle)
    try:
        tensors = {key: stored(tensor) for key, tensor in state.items()}
        save_file(tensors, partial, metadata={"format": "pt", **(metadata or {})})
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise
    return sha256_of(path)


def load_strictly(network: torch.nn.Module, state: Mapping[str, torch.Tensor], name: str) -> None:
    """Load tensors into a network that has exactly their keys and shapes.

    The network may be on the meta device: its parameters are replaced, not overwritten. Raises
    ValueError if keys are missing, unexpected or of another shape; it names the weights (`name`)
    and the first few of each.
    """
    wanted = {key: tuple(t.shape) for key, t in network.state_dict().items()}
    found = {key: tuple(t.shape) for key, t in state.items()}
    problems = [
        _listed("missing", [key for key in wanted if key not in found]),
        _listed("unexpected", [key for key in found if key not in wanted]),
        _listed(
            "of another shape",
            [
                f"{key} {found[key]} instead of {wanted[key]}"
                for key in wanted
                if key in found and found[key] != wanted[key]
            ],
        ),
    ]
    if any(problems):
        raise ValueError(
            f"weights {name} do not fit {type(network).__name__}: "
            f"{'; '.join(p for p in problems if p)}. Choose the model these weights were made for"
        )
    network.load_state_dict(dict(state), strict=True, assign=True)


def read_network(network: _Network, path: Path, sha256: str | None = None) -> _Network:
    """Load an empty network from a safetensors file, see `read_weights` and `load_strictly`.

    Returns the same network, in eval mode.
    """
    load_strictly(network, read_weights(path, sha256), path.name)
    return network.eval()


def _listed(what: str, items: list[str]) -> str:
    if not items:
        return ""
    more = f", and {len(items) - _LISTED} more" if len(items) > _LISTED else ""
    return f"{len(items)} {what} ({', '.join(items[:_LISTED])}{more})"


class Placeholder:
    """Replaces an object of a class that is not needed: accepts any state and does nothing."""

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


def convert_checkpoint(
    path: str | os.PathLike[str], out: str | os.PathLike[str], *, half: bool = False
) -> tuple[str, dict[str, torch.Tensor]]:
    """Copy the network of a `.pth.tar` checkpoint into a safetensors file.

    Args:
        path: The checkpoint; its tensors are under `net`, `state_dict` or `model`, or are the
            whole file.
        out: The safetensors file to write; an existing one is replaced.
        half: Store floating-point tensors as float16.

    Returns:
        The written file's sha256, and the checkpoint's tensors by name.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        ValueError: Not a torch checkpoint, one that names code outside the known research
            packages, or one without tensors where they are expected.
    """
    state = read_checkpoint(path)
    source = {"source_sha256": sha256_of(path)}
    return write_weights(state, out, half=half, metadata=source), state


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """Return the tensors of a checkpoint by name, without a leading `module.`.

    Raises FileNotFoundError and ValueError, see `convert_checkpoint`.
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
    """Return what a checkpoint of torch 1.6 or later names that tensors do not need."""
    try:
        return torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except AttributeError as error:
        raise ValueError(
            f"torch {torch.__version__} cannot list what a checkpoint names; convert with torch "
            "2.6 or later (the result can be used with any)"
        ) from error


def _legacy_classes(path: Path) -> list[str]:
    """Return the same for the format before torch 1.6: several pickles, then tensors' bytes."""
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
    """Tell whether the restricted unpickler accepts a name as part of a tensor or container."""
    module, _, last = name.rpartition(".")
    return name in _CONTAINERS or (module == "torch" and last.endswith("Storage"))
