# SPDX-License-Identifier: Apache-2.0
"""Quote foreign texts in messages and logs: cut, and escaped so that they stay in one line."""

from __future__ import annotations

MAX_QUOTED = 80
"""Characters of a foreign text that a message repeats."""


def printable(text: str, limit: int = MAX_QUOTED) -> str:
    """Return the first `limit` characters with unprintable ones escaped; says so if it cuts."""
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[:limit])
    return shown if len(text) <= limit else f"{shown}... ({len(text)} characters)"


def describe_error(error: BaseException) -> str:
    """Return kind and text of an error, which may come from any library."""
    return printable(repr(error), 300)


def quote(text: str) -> str:
    """Return a text in single quotes, as `printable` shows it."""
    return f"'{printable(text)}'"
