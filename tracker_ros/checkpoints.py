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
import pickletools
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from tracker_ros.output_files import check_outputs, replacement

# Packages whose classes official checkpoints are known to pickle; none of them is ever imported.
PLACEHOLDER_PACKAGES = ("lib", "ltr", "pytracking", "easydict", "yacs", "numpy")
_VIT_PARTS = ("cls_token", "pos_embed", "patch_embed.", "blocks.", "norm.")
_VIT_KEYS = {"cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.norm1.weight"}
_STATE_KEYS = ("net", "state_dict", "model")
_PICKLES = (".pth", ".pt", ".tar", ".ckpt", ".bin", ".pkl")
_LISTED = 5
_MAX_SHARING = 4
"""How many times the size of a checkpoint its tensors may take, since they may share values."""
# The format before torch 1.6: magic number, version, system, content, names of the storages.
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PICKLES = 5
_CONTAINERS = (
    "collections.OrderedDict",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
)

_CHECKED = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
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
    """Read every tensor of a safetensors file by name, half precision widened to float32.

    Raises FileNotFoundError if there is no such file; ValueError, which says what to do, if it is
    not a safetensors file, has another sha256 than expected, or a value is NaN or infinite.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    if not path.is_file():
        what = "is no regular file" if path.exists() else "does not exist"
        raise FileNotFoundError(f"weights file {path} {what}; expected a safetensors file")
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
    widened = {key: t.float() if t.dtype in halves else t for key, t in state.items()}
    if problem := _not_finite(widened):
        raise ValueError(
            f"weights file {path.name}: {problem}; the file is damaged or its training diverged: "
            "get it again, or take an earlier one"
        )
    return widened


def _not_finite(state: Mapping[str, torch.Tensor]) -> str:
    """Return which tensors hold NaN or infinity, in words; empty if none does."""
    found = []
    for key, tensor in state.items():
        # A sum takes no memory; it may overflow, so what is not finite is looked at again.
        if tensor.dtype in _CHECKED and not torch.isfinite(tensor.sum(dtype=torch.float64)):
            count = int((~torch.isfinite(tensor)).sum())
            found += [f"{key} in {count} of {tensor.numel()} values"] if count else []
    return f"NaN or infinity in {_listed('tensors', found)}" if found else ""


def write_weights(
    state: Mapping[str, torch.Tensor],
    path: str | os.PathLike[str],
    *,
    half: bool = False,
    metadata: Mapping[str, str] | None = None,
) -> str:
    """Write tensors to a safetensors file, which is there whole or not at all. Returns its sha256.

    With `half`, floating-point tensors are stored as float16. Raises ValueError if a value is NaN,
    infinite or too large for float16, OSError if the file cannot be written; an earlier one is
    left as it was.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    def stored(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.detach().to("cpu")
        if half and tensor.is_floating_point():
            tensor = tensor.to(torch.float16)
        return tensor.clone(memory_format=torch.contiguous_format)

    path = Path(path)
    if problem := _not_finite(state):
        raise ValueError(f"weights {path.name} are not written: {problem}; take an earlier state")
    tensors = {key: stored(tensor) for key, tensor in state.items()}
    if problem := _not_finite(tensors):
        raise ValueError(
            f"weights {path.name} are not written: values above {torch.finfo(torch.float16).max} "
            f"do not fit float16 ({problem}); store them without half precision"
        )
    with replacement(path) as place:
        try:
            save_file(tensors, str(place), metadata={"format": "pt", **(metadata or {})})
        except SafetensorError as error:
            raise OSError(str(error)) from error
    return sha256_of(path)


def load_strictly(network: torch.nn.Module, state: Mapping[str, torch.Tensor], name: str) -> None:
    """Load tensors into a network that has exactly their keys, shapes and types.

    The network may be on the meta device: its parameters are replaced, not overwritten. Raises
    ValueError as `check_fit` does.
    """
    check_fit(network, state, name)
    network.load_state_dict(dict(state), strict=True, assign=True)


def check_fit(
    network: torch.nn.Module,
    state: Mapping[str, torch.Tensor],
    name: str,
    may_lack: Callable[[str], bool] = lambda key: False,
) -> None:
    """Check that tensors are those of a network: keys, shapes and types.

    Raises ValueError if keys are missing, except those that `may_lack` accepts, unexpected, or of
    another shape or type; it names the weights (`name`) and the first few of each.
    """
    own = network.state_dict()
    wanted = {key: tuple(t.shape) for key, t in own.items()}
    found = {key: tuple(t.shape) for key, t in state.items()}
    problems = [
        _listed("missing", [key for key in wanted if key not in found and not may_lack(key)]),
        _listed("unexpected", [key for key in found if key not in wanted]),
        _listed(
            "of another shape",
            [
                f"{key} {found[key]} instead of {wanted[key]}"
                for key in wanted
                if key in found and found[key] != wanted[key]
            ],
        ),
        _listed(
            "of another type",
            [
                f"{key} {_type(state[key])} instead of {_type(own[key])}"
                for key in wanted
                if key in found and state[key].dtype != own[key].dtype
            ],
        ),
    ]
    if any(problems):
        raise ValueError(
            f"weights {name} do not fit {type(network).__name__}: "
            f"{'; '.join(p for p in problems if p)}. Choose the model these weights were made "
            "for, in float32 or half precision"
        )


def read_network(network: _Network, path: Path, sha256: str | None = None) -> _Network:
    """Load an empty network from a safetensors file, see `read_weights` and `load_strictly`.

    Returns the same network, in eval mode.
    """
    load_strictly(network, read_weights(path, sha256), path.name)
    return network.eval()


def _type(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


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

    The tensors are under `net`, `state_dict` or `model`, or are the whole checkpoint. Returns the
    written file's sha256 and the written tensors by name; see `as_backbone`.

    Raises FileNotFoundError if there is no checkpoint, and as `write_weights`; ValueError if it is
    not a torch checkpoint, names code outside the known research packages, has no plain tensors
    where they are expected, or is the output.
    """
    check_outputs({"the output": Path(out)}, {"the checkpoint": Path(path)})
    state = as_backbone(read_checkpoint(path))
    source = {"source_sha256": sha256_of(path)}
    return write_weights(state, out, half=half, metadata=source), state


def as_backbone(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a pretrained vision transformer under the names of a one-stream tracker's backbone.

    What only pretraining uses, as MAE's decoder or a classifier's last layer, is left out. Tensors
    of other networks are returned as they are.
    """
    if not state.keys() >= _VIT_KEYS:
        return dict(state)
    return {f"backbone.{key}": t for key, t in state.items() if key.startswith(_VIT_PARTS)}


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
            f"checkpoint {path.name} has {_listed('values that are not tensors', foreign)}; "
            f"expected tensors by name, alone or under one of {', '.join(_STATE_KEYS)}"
        )
    state = {str(key).removeprefix("module."): value for key, value in content.items()}
    if len(state) < len(content):
        names = [str(key) for key in content if f"module.{key}" in content]
        raise ValueError(
            f"checkpoint {path.name} has tensors of the same name with and without 'module.': "
            f"{', '.join(names[:_LISTED])}; expected one of each"
        )
    _check_plain(state, path)
    return state


def _check_plain(state: Mapping[str, torch.Tensor], path: Path) -> None:
    """Refuse tensors that other programs could not read, or that need more than the file holds."""
    kinds = {
        "quantised": lambda t: t.is_quantized,
        "sparse": lambda t: t.layout != torch.strided,
        "without values": lambda t: t.is_meta,
        "complex": lambda t: t.is_complex(),
    }
    for kind, is_such in kinds.items():
        if found := [key for key, tensor in state.items() if is_such(tensor)]:
            raise ValueError(
                f"checkpoint {path.name} has tensors that are {kind} "
                f"({', '.join(found[:_LISTED])}); expected plain ones: save the network in float32"
            )
    stored = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in state.values()}
    size, held = path.stat().st_size, sum(stored.values())
    claimed = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    if held > size or claimed > _MAX_SHARING * size:
        raise ValueError(
            f"checkpoint {path.name} holds {size} bytes, but its tensors would take "
            f"{max(held, claimed)}; expected tensors that are stored whole"
        )


def _load_inert(path: Path) -> Any:
    if zipfile.is_zipfile(path):
        _check_size(path)
        foreign = _zip_classes(path)
    else:
        foreign = _legacy_classes(path)
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
    except Exception as error:  # a damaged pickle makes torch fail in any way
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"checkpoint {path.name} cannot be read as tensors ({reason}); nothing in it was run. "
            "Download it again"
        ) from error


def _check_size(path: Path) -> None:
    """Refuse an archive that would take more memory than the file has bytes."""
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError) as error:
        raise ValueError(
            f"checkpoint {path.name} is a damaged archive ({error}). Download it again"
        ) from error
    if unpacked > path.stat().st_size:
        raise ValueError(
            f"checkpoint {path.name} is compressed: its {path.stat().st_size} bytes unpack to "
            f"{unpacked}; expected a file of torch.save, which stores tensors as they are"
        )


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
