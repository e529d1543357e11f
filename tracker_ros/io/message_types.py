# SPDX-License-Identifier: Apache-2.0
"""The messages in bags, made and read without ROS (`rosbags`).

A message is described by nested dictionaries of its fields; what is left out has ROS's default.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Content = Mapping[str, Any]
"""Fields of a message by name: numbers, texts, arrays, lists, and further contents."""

_DEFINITIONS = Path(__file__).parent / "message_definitions.txt"
_BYTES = {"char": "uint8", "byte": "uint8", "octet": "uint8"}
_SERVICE_PARTS = ("_Request", "_Response", "_Event")


def message_type(kind: str) -> str:
    """Return the name of a type as rosbags has it: parts of services are named as messages."""
    package, _, name = kind.partition("/srv/")
    return f"{package}/msg/{name}" if name.endswith(_SERVICE_PARTS) else kind


@functools.cache
def common_types() -> Any:
    """Return rosbags' store of the types of ROS 2's common interfaces and of our own.

    They are for bags that hold no definitions. Raises ImportError without rosbags.
    """
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    store = get_typestore(Stores.ROS2_JAZZY)
    for kind, text in _definitions():
        store.register(get_types_from_msg(text, kind))
    return store


def _definitions() -> Iterator[tuple[str, str]]:
    """Yield type and definition of each message in the file beside this module."""
    for section in _DEFINITIONS.read_text(encoding="utf-8").split("\nMSG: ")[1:]:
        kind, _, text = section.partition("\n")
        yield kind, text


def make_message(store: Any, kind: str, content: Content) -> Any:
    """Make a message of a store's type; raises ValueError for a field that the type lacks."""
    fields = store.fielddefs[kind][1]
    if unknown := set(content).difference(name for name, _ in fields):
        raise ValueError(f"{kind} has no field {', '.join(sorted(unknown))}")
    values = {name: _value(store, field, content.get(name)) for name, field in fields}
    return store.types[kind](**values)


def _value(store: Any, field: Any, given: Any) -> Any:
    """Return the value of a field, its default for None."""
    from rosbags.interfaces import Nodetype

    node, detail = field
    if node is Nodetype.NAME:
        return make_message(store, detail, given or {})
    if node is Nodetype.BASE:
        kind = detail[0]
        if given is not None:
            return given
        return "" if kind == "string" else False if kind == "bool" else _number(kind)(0)
    (inner_node, inner), count = detail
    is_array = node is Nodetype.ARRAY
    if inner_node is Nodetype.BASE and inner[0] != "string":
        kind = _BYTES.get(inner[0], inner[0])
        if given is None:
            return np.zeros(count if is_array else 0, kind)
        return np.asarray(given, kind).ravel()
    values = [None] * (count if is_array else 0) if given is None else given
    return [_value(store, (inner_node, inner), value) for value in values]


def _number(kind: str) -> type:
    return float if kind.startswith("float") else int
