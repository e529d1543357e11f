# SPDX-License-Identifier: Apache-2.0
"""Options of a model's family: parsed from NAME=VALUE and checked against what the family takes.

The signature of the family's factory and the fields of its settings say which options there are,
of which type and with which default, so there is no second list to keep.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import math
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, TypeVar

T = TypeVar("T")
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
_GIVEN = ("backend", "weights", "sha256")
"""Arguments of a family's factory that are no options."""
_TRUTH = {"true": True, "false": False}


@dataclass(frozen=True)
class Settings:
    """The settings of a model that options may change."""

    values: Any  # a dataclass; its fields, and those of dataclasses in it, are the options
    names: tuple[str, ...] | None = None  # the fields that are options; None for all
    # other names of options, as the authors' files have them, lower case
    official_names: Mapping[str, str] = field(default_factory=dict)
    # what the authors' files set and no option does, lower case, with the reason or what to use
    # instead
    elsewhere: Mapping[str, str] = field(default_factory=dict)


class Option(typing.NamedTuple):
    """The type of an option, and the value that it has if it is not given."""

    kind: Any
    default: Any


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


def known_options(factory: Callable[..., Any], settings: Settings) -> dict[str, Option]:
    """Return the options of a model by name: its factory's parameters, and the settings' fields.

    The first parameter, and those in `_GIVEN`, are no options.
    """
    hints = typing.get_type_hints(factory)
    _, *others = inspect.signature(factory).parameters.values()
    known = {
        p.name: Option(hints[p.name], p.default)
        for p in others
        if p.name not in _GIVEN and p.kind is not p.VAR_KEYWORD
    }
    return known | _fields(settings.values, settings.names)


def _fields(values: Any, names: tuple[str, ...] | None = None) -> dict[str, Option]:
    """Return the fields of a dataclass as options; those of a dataclass in it by both names."""
    options: dict[str, Option] = {}
    for name, kind in typing.get_type_hints(type(values)).items():
        if names is not None and name not in names:
            continue
        default = getattr(values, name)
        if is_dataclass(default):
            options |= {f"{name}_{inner}": option for inner, option in _fields(default).items()}
        else:
            options[name] = Option(kind, default)
    return options


def with_settings(values: T, changes: Mapping[str, Any]) -> T:
    """Return a dataclass with some options changed, which `checked_options` has checked.

    Raises ValueError, from the dataclass, if values do not fit each other.
    """
    changed: dict[str, Any] = {}
    for name in (f.name for f in fields(values)):  # type: ignore[arg-type]
        inner = getattr(values, name)
        if name in changes:
            changed[name] = changes[name]
        elif is_dataclass(inner) and not isinstance(inner, type):
            ours = {f.name: f"{name}_{f.name}" for f in fields(inner)}
            new = {key: changes[option] for key, option in ours.items() if option in changes}
            changed |= {name: replace(inner, **new)} if new else {}
    return replace(values, **changed) if changed else values  # type: ignore[type-var]


def checked_options(
    factory: Callable[..., Any], model: str, options: Mapping[str, Any], settings: Settings
) -> dict[str, Any]:
    """Return options by name, converted to the types that a model's factory expects.

    See `known_options`. Texts become numbers, truth values or tuples where those are expected.
    Raises ValueError, which names the model, if there is no such option, or its value has another
    type.
    """
    known = known_options(factory, settings)
    result: dict[str, Any] = {}
    for written, value in options.items():
        name = settings.official_names.get(written.lower(), written.lower())
        if name not in known:
            raise ValueError(_unknown(written, model, known, settings))
        if name in result:
            raise ValueError(f"option {name!r} is given twice; leave one out")
        try:
            result[name] = _fit(value, known[name].kind)
        except _Unfit:
            raise ValueError(
                f"option {name} of model {model} is {value!r}; "
                f"expected {_expected(known[name].kind)}"
            ) from None
    return result


def _unknown(name: str, model: str, known: Mapping[str, Option], settings: Settings) -> str:
    """Return why there is no such option, with the nearest name and the list of all."""
    if name.lower() in settings.elsewhere:
        return f"{name!r} is no option of model {model}: {settings.elsewhere[name.lower()]}"
    names = [*known, *settings.official_names]
    near = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]}? " if near else ""
    takes = f"it takes {', '.join(known) or 'none'}"
    return f"model {model} has no option {name!r}; {hint}{takes}"


def shown(value: Any) -> str:
    """Return a value as it is written in an option, without spaces."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.6g}"
    if not isinstance(value, tuple):
        return str(value)
    parts = [f"({shown(part)})" if isinstance(part, tuple) else shown(part) for part in value]
    return ",".join(parts) + ("," if len(parts) == 1 else "") if parts else "()"


class _Unfit(Exception):
    """A value does not have the type that is expected."""


def _alternatives(kind: Any) -> tuple[Any, ...]:
    """Return the types of a union; of another type, that alone."""
    is_union = not isinstance(kind, type) and typing.get_origin(kind) is not tuple
    return typing.get_args(kind) if is_union else (kind,)


def _expected(kind: Any) -> str:
    kinds = _alternatives(kind)
    words = [text for one, text in _WORDS.items() if one in kinds]
    return " or ".join(words + [_rows(k) for k in kinds if typing.get_origin(k) is tuple])


def _rows(kind: Any) -> str:
    """Return how a tuple is written, in words."""
    of = typing.get_args(kind)
    if typing.get_origin(of[0]) is tuple:
        return "pairs as (3,1),(1,3)"
    numbers = "integers" if of[0] is int else "numbers"
    return f"{numbers} as 3,6,9" if of[-1] is Ellipsis else f"{len(of)} {numbers} as 3,6"


def _fit(value: Any, kind: Any) -> Any:
    """Return a value as the first that fits of None, bool, int, float, tuple and str."""
    kinds = _alternatives(kind)
    if value is None and type(None) in kinds:
        return None
    text = value if isinstance(value, str) else None
    if text is not None and text.lower() in _TRUTH and bool in kinds:
        return _TRUTH[text.lower()]
    for number in (bool, int, float):
        if number in kinds:
            found = _number(value, number)
            if found is not None:
                return found
    for row in kinds:
        if typing.get_origin(row) is tuple:
            return _fit_tuple(value, typing.get_args(row))
    if text is None or str not in kinds:
        raise _Unfit
    return text


def _number(value: Any, kind: type) -> Any:
    """Return a value as a bool, an int or a finite float, None if it is none."""
    if isinstance(value, bool) or kind is bool:
        return value if isinstance(value, bool) and kind is bool else None
    if isinstance(value, str):
        try:
            number = kind(value)
        except ValueError:
            return None
    elif isinstance(value, int) or (isinstance(value, float) and kind is float):
        number = kind(value)
    else:
        return None
    return number if isinstance(number, int) or math.isfinite(number) else None


def _fit_tuple(value: Any, of: tuple[Any, ...]) -> tuple[Any, ...]:
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            raise _Unfit from None
    values = tuple(value) if isinstance(value, tuple | list) else (value,)
    if of[-1] is Ellipsis:
        rows = typing.get_origin(of[0]) is tuple
        if rows and values and not isinstance(values[0], tuple | list):
            values = (values,)  # one pair alone
        of = (of[0],) * len(values)
    if len(values) != len(of):
        raise _Unfit
    return tuple(_fit(one, kind) for one, kind in zip(values, of, strict=True))
