# SPDX-License-Identifier: Apache-2.0
"""Parity tests read cases and shapes from the golden files, so those must be there to collect.

Weights, networks and passes are kept while the tests of one group need them, and released then.
"""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from golden_files import ONE_STREAM_GOLDENS, folder  # noqa: E402

try:
    folder()
except FileNotFoundError as error:
    raise pytest.UsageError(str(error)) from error

_KEEPERS = (
    "golden_files",
    "mast_golden_network",
    "one_stream_golden_network",
    "trdimp_golden_network",
)
"""Modules whose functions keep their results."""
_NETWORK_TESTS = ("test_grm_network", "test_one_stream_network", "test_ostrack_network")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests of one golden network after each other, in one process: it is made once."""
    # The largest one comes first, while the process is still small.
    order = {name: place for place, name in enumerate(reversed(ONE_STREAM_GOLDENS))}
    place: dict[str, int] = {}

    def key(item: pytest.Item) -> tuple[int, int, bool]:
        group = _group(item)
        if group == "golden networks":
            item.add_marker(pytest.mark.xdist_group(group), append=False)
        place.setdefault(group, len(place))
        params = item.callspec.params if hasattr(item, "callspec") else {}
        name, packed = params.get("name"), params.get("packed", False)
        return place[group], order.get(name, -1), bool(packed)

    items[:] = sorted(items, key=key)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Release what a group of tests has kept, before the next group begins."""
    if nextitem is not None and _group(nextitem) == _group(item):
        return
    from tracker_ros.process import give_back_free_memory

    keepers = [sys.modules[name] for name in _KEEPERS if name in sys.modules]
    for module in [*keepers, item.module]:
        for value in list(vars(module).values()):
            if hasattr(value, "cache_clear"):
                value.cache_clear()
    gc.collect()
    give_back_free_memory()


def _group(item: pytest.Item) -> str:
    """Return the name of the tests that share networks: a file's, or those of several files."""
    own = item.path.parent == Path(__file__).parent
    return "golden networks" if own and item.path.stem in _NETWORK_TESTS else str(item.path)
