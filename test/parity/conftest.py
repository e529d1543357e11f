# SPDX-License-Identifier: Apache-2.0
"""Parity tests read cases and shapes from the golden files, so those must be there to collect."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from golden_files import ONE_STREAM_GOLDENS, folder  # noqa: E402

try:
    folder()
except FileNotFoundError as error:
    raise pytest.UsageError(str(error)) from error

_NETWORK_TESTS = ("test_grm_network", "test_one_stream_network", "test_ostrack_network")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests of one golden network after each other, in one process: it is made once."""
    # The largest one comes first, while the process is still small.
    order = {name: place for place, name in enumerate(reversed(ONE_STREAM_GOLDENS))}
    place: dict[str, int] = {}

    def key(item: pytest.Item) -> tuple[int, int, bool]:
        module = item.path.stem
        group = module
        if item.path.parent == Path(__file__).parent and module in _NETWORK_TESTS:
            group = "golden networks"
            item.add_marker(pytest.mark.xdist_group(group), append=False)
        place.setdefault(group, len(place))
        params = item.callspec.params if hasattr(item, "callspec") else {}
        name, packed = params.get("name"), params.get("packed", False)
        return place[group], order.get(name, -1), bool(packed)

    items[:] = sorted(items, key=key)
