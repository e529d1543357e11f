# SPDX-License-Identifier: Apache-2.0
"""A folder of this user's own, for what is executed later, and locks in it."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def make_private(folder: Path) -> None:
    """Make the folder, readable and writable by this user only; refuse any other.

    What lies in it is executed, so whoever can write to it could run code as this user.

    Raises:
        PermissionError: It is a link, belongs to another, or others may enter it.
        OSError: It cannot be made.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    private = stat.S_ISDIR(found.st_mode) and not found.st_mode & 0o077
    if not private or found.st_uid != os.getuid():
        raise PermissionError(
            f"{folder} (mode {stat.filemode(found.st_mode)}, user {found.st_uid}) must be a real "
            f"folder of user {os.getuid()} that nobody else may enter; remove it, or take the "
            "rights of others away (chmod 700)"
        )


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold a lock that other processes respect; it ends with the process at the latest.

    Args:
        path: The lock's file, made if need be and left there.
        wait: Wait for another holder.

    Raises:
        BlockingIOError: Another holds it, and `wait` is false.
    """
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
