# SPDX-License-Identifier: Apache-2.0
"""A cache of their own for the tests of operators, and a process that has built nothing yet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tracker_ros.cuda import build


@pytest.fixture(autouse=True, scope="module")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def nothing_built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Forget what this process has built; return the cache folder, not made yet."""
    monkeypatch.setattr(build, "_found", {})
    monkeypatch.setattr(build, "_reported", set())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tracker_ros" / "kernels"
