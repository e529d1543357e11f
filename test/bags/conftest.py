# SPDX-License-Identifier: Apache-2.0
"""What the tests of bags share: the embedded model, and a recording."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from recordings import record  # noqa: E402


@pytest.fixture(scope="session")
def tracker() -> Any:
    """The embedded model."""
    from tracker_ros import create_tracker

    return create_tracker("ostrack_tiny", backend="torch", build_engine=False)


@pytest.fixture(scope="session")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen raw images with calibration and depth; the disc is hidden in two of them."""
    path = tmp_path_factory.mktemp("bags") / "run.mcap"
    topics = ("/camera/image_raw", "/camera/camera_info", "/depth", "/truth")
    return record(path, 16, topics=topics, hidden=(10, 11))
