# SPDX-License-Identifier: Apache-2.0
"""What NumPy arrays and torch tensors have in common, so that code on engines exists once.

ONNX Runtime takes and returns NumPy arrays, TensorRT and CUDA graphs tensors on a GPU. Functions
here accept either and return the kind that they were given. None of them imports torch.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    import torch

Array = Any
"""A NumPy array or a torch tensor."""

_Function = TypeVar("_Function", bound=Callable[..., Any])


def is_numpy(array: Array) -> bool:
    """Tell whether an array is NumPy's, and not torch's."""
    return isinstance(array, np.ndarray)


def to_numpy(array: Array) -> np.ndarray:
    """Return an array as NumPy's, on the host; the values may be shared."""
    return array if isinstance(array, np.ndarray) else array.detach().cpu().numpy()


def on_device(values: np.ndarray, device: torch.device | None) -> Array:
    """Return NumPy values as a tensor on a device; without a device as they are."""
    if device is None:
        return values
    import torch

    return torch.from_numpy(values).to(device)


def like(values: np.ndarray, example: Array) -> Array:
    """Return NumPy values as the kind of array that the example is, where the example is."""
    return values if isinstance(example, np.ndarray) else on_device(values, example.device)


def copied(array: Array) -> Array:
    """Return a copy."""
    return array.copy() if isinstance(array, np.ndarray) else array.clone()


def library_of(array: Array) -> Any:
    """Return numpy or torch, whichever an array belongs to."""
    return np if isinstance(array, np.ndarray) else sys.modules["torch"]


def concatenate(arrays: Sequence[Array], axis: int = 0) -> Array:
    """Join arrays along an axis that they have."""
    return library_of(arrays[0]).concatenate(list(arrays), axis)


def stack(arrays: Sequence[Array], axis: int = 0) -> Array:
    """Join arrays along a new axis."""
    return library_of(arrays[0]).stack(list(arrays), axis)


def zeros(shape: Sequence[int], example: Array) -> Array:
    """Return zeros of the example's type, where the example is."""
    if isinstance(example, np.ndarray):
        return np.zeros(shape, example.dtype)
    return example.new_zeros(tuple(shape))


def select(array: Array, places: np.ndarray, axis: int) -> Array:
    """Return the entries at some places, int64, of one axis."""
    if isinstance(array, np.ndarray):
        return array.take(places, axis)
    return array.index_select(axis, on_device(places, array.device))


def with_rows(array: Array, count: int) -> Array:
    """Return (N, ...) with rows of zeros behind, `count` in all."""
    missing = count - len(array)
    return concatenate([array, zeros((missing, *array.shape[1:]), array)]) if missing else array


def padded(array: Array, *widths: tuple[int, int]) -> Array:
    """Return the array between zeros: how many before and after, for each of the last axes."""
    if isinstance(array, np.ndarray):
        return np.pad(array, [(0, 0)] * (array.ndim - len(widths)) + list(widths))
    from torch.nn.functional import pad

    return pad(array, [width for pair in reversed(widths) for width in pair])


def contiguous(array: Array) -> Array:
    """Return the array laid out row by row."""
    if isinstance(array, np.ndarray):
        return np.ascontiguousarray(array)
    return array.contiguous()


def inference(function: _Function) -> _Function:
    """Make a function record no gradients where torch is in use."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        torch = sys.modules.get("torch")
        if torch is None:
            return function(*args, **kwargs)
        with torch.inference_mode():
            return function(*args, **kwargs)

    return run  # type: ignore[return-value]
