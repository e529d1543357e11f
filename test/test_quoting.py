# SPDX-License-Identifier: Apache-2.0
"""Tests of foreign texts in messages."""

from __future__ import annotations

import pytest

from tracker_ros.quoting import describe_error, printable, quote


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("camera", "'camera'"),
        ("Fußgänger 行人", "'Fußgänger 行人'"),
        ("a\n[FATAL] b", "'a\\n[FATAL] b'"),
        ("\x1b[2J\x07\u202e", "'\\x1b[2J\\x07\\u202e'"),
        ("\ud800", "'\\ud800'"),
        ("", "''"),
    ],
)
def test_unprintable_characters_are_escaped(text, shown):
    assert quote(text) == shown
    assert quote(text).isprintable()


def test_long_texts_are_cut_and_their_length_is_told():
    assert quote("x" * 80) == "'" + "x" * 80 + "'"
    shown = printable("x" * 10**6)
    assert shown.startswith("x" * 80)
    assert "1000000" in shown
    assert len(shown) < 120
    assert len(describe_error(ValueError("x" * 10**6))) < 400
