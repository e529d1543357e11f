# SPDX-License-Identifier: Apache-2.0
"""Which processor a model runs on."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

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
