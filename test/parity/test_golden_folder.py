# SPDX-License-Identifier: Apache-2.0
"""A folder of golden data that is missing or incomplete is an error, not a skip."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from golden_files import OWN_FOLDER, REQUIRED, VARIABLE, check_folder


def test_own_folder_is_complete() -> None:
    assert check_folder(OWN_FOLDER) == OWN_FOLDER


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        check_folder(tmp_path / "nowhere")


@pytest.mark.parametrize("lacking", [*REQUIRED, "video_a.npz"])
def test_missing_file_is_named(tmp_path: Path, lacking: str) -> None:
    for path in OWN_FOLDER.iterdir():
        if path.is_file() and path.name != lacking:
            (tmp_path / path.name).symlink_to(path)
    with pytest.raises(FileNotFoundError, match=f"lacks {lacking}"):
        check_folder(tmp_path)


def test_incomplete_folder_ends_the_test_run(tmp_path: Path) -> None:
    test_file = Path(__file__).with_name("test_losses.py")
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(test_file)],
        env={**os.environ, VARIABLE: str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode != 0
    assert "is incomplete, it lacks" in result.stdout + result.stderr
