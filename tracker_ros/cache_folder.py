# SPDX-License-Identifier: Apache-2.0
"""Where things are kept between runs that can be made again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(purpose: str) -> Path:
    """Folder for one purpose below the user's cache folder; not made here.

    Args:
        purpose: Name of the folder, for example "evaluation".

    Raises:
        RuntimeError: There is no home to keep it in.
    """
    try:
        root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError as error:
        raise RuntimeError(
            f"there is no cache folder ({error}); set HOME or XDG_CACHE_HOME"
        ) from error
    return Path(root) / "tracker_ros" / purpose
