# SPDX-License-Identifier: Apache-2.0
"""Options of a model's family: parsed from NAME=VALUE and checked against the family's factory.

The factory's own signature says which options there are, of which type and with which default, so
there is no second list to keep.
"""

from __future__ import annotations

import inspect
import math
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

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
"""Arguments of `create_tracker` that are no options."""
_TRUTH = {"true": True, "false": False}


def parse_options(texts: Iterable[str]) -> dict[str, Any]:
    """Parse options NAME=VALUE of a command line. Returns texts by name.

    Raises ValueError if a text has another form, or a name comes twice.
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
    """Convert options to the types that a model's factory expects.

    Args:
        factory: Its parameters are the options, except the first and those in `given`.
        model: Name of the model, for messages.
        given: Names of parameters that are no options.
        options: Values by name; texts become numbers or truth values where those are expected.

    Returns:
        Values by name.

    Raises:
        ValueError: There is no such option, or its value has another type.
    """
    hints = typing.get_type_hints(factory)
    first, *others = inspect.signature(factory).parameters.values()
    known = {p.name: p for p in others if p.name not in given}
    kinds = {name: typing.get_args(hints[name]) or (hints[name],) for name in known}
    result = {}
    for name, value in options.items():
        if name not in known:
            remedy = ", ".join(
                f"{n} ({_expected(kinds[n])}; without it {p.default})" for n, p in known.items()
            )
            raise ValueError(
                f"model {model} has no option {name!r}; "
                + (f"it takes {remedy}" if remedy else "it takes none")
            )
        result[name] = _converted(value, kinds[name])
        if result[name] is None and not (value is None and type(None) in kinds[name]):
            raise ValueError(
                f"option {name} of model {model} is {value!r}; expected {_expected(kinds[name])}"
            )
    return result


def _expected(kinds: Collection[type]) -> str:
    return " or ".join(words for kind, words in _WORDS.items() if kind in kinds)


def _converted(value: Any, kinds: Collection[type]) -> Any:
    """Return the value as the first of bool, int, float and str that fits, else None."""
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
