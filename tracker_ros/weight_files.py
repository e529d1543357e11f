# SPDX-License-Identifier: Apache-2.0
"""Weights on disk: safetensors only, loaded strictly, checked against a known sha256.

A safetensors file holds tensors and nothing that could run. Half-precision tensors are storage; a
model computes in float32 unless told otherwise.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch

_Network = TypeVar("_Network", bound="torch.nn.Module")

_LISTED = 5


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Hexadecimal sha256 of a file."""
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
        sha256: What the file must hash to; None accepts any file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Not a safetensors file, or another sha256; the message says what to do.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"weights file {path} does not exist; expected a safetensors file")
    if path.suffix in (".pth", ".pt", ".tar", ".ckpt", ".bin", ".pkl"):
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
    """Write tensors to a safetensors file in one step: it is there whole, or not at all.

    Args:
        state: Key to tensor.
        path: The file; an existing one is replaced.
        half: Store floating-point tensors as float16.
        metadata: Strings kept in the file's header.

    Returns:
        The file's sha256.
    """
    import torch
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
    """Put `state` into `network` if it has exactly the keys and shapes that `network` has.

    Args:
        network: Any module; its parameters may be on the meta device, since they are replaced by
            the tensors of `state` rather than copied into.
        state: Key to tensor.
        name: What the weights are called in the error.

    Raises:
        ValueError: Keys are missing, unexpected or of another shape; the message names the first
            few of each.
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
    """Fill an empty network (on the meta device) from a safetensors file.

    Returns:
        The same network, in eval mode.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is no safetensors file, has another sha256, or does not fit.
    """
    load_strictly(network, read_weights(path, sha256), path.name)
    return network.eval()


def _listed(what: str, items: list[str]) -> str:
    if not items:
        return ""
    more = f", and {len(items) - _LISTED} more" if len(items) > _LISTED else ""
    return f"{len(items)} {what} ({', '.join(items[:_LISTED])}{more})"
