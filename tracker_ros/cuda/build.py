# SPDX-License-Identifier: Apache-2.0
"""Keeps what a compiler made: checked when read, built once even if two processes ask at once.

A folder of this user's own, for what is executed later, and locks in it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

KERNELS = Path(__file__).parent / "kernels"
_DIGEST_BYTES = hashlib.sha256().digest_size


class BuildError(RuntimeError):
    """Kernels could not be built or loaded; the message says why and what would help."""


def default_folder() -> Path:
    """Folder below the user's cache folder; not made here.

    Raises:
        BuildError: The user has no home, as in some containers.
    """
    try:
        root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError as error:
        raise BuildError(
            f"there is no folder for a cache ({error}); set HOME or XDG_CACHE_HOME"
        ) from error
    return Path(root) / "tracker_ros" / "kernels"


def sources() -> list[bytes]:
    """Name and text of every kernel file: any of them may include any other."""
    files = sorted(KERNELS.glob("*.cuh"))
    return [part for file in files for part in (file.name.encode(), file.read_bytes())]


def cached(
    folder: Path, name: str, key: Iterable[bytes], build: Callable[[Path], object]
) -> tuple[Path, bytes]:
    """Return a file of the cache, built first if it is missing or damaged.

    The sha256 of what `build` wrote is appended to the file, which no loader minds, so that one
    rename publishes both. A second process that wants the same waits for the first.

    Args:
        folder: Made if need be; it must belong to this user, and to nobody else.
        name: Begins the name of the file and ends it, as in "prroi_pool.so".
        key: Everything that the result depends on: source, compiler, options.
        build: Writes the result to the path that it is given.

    Returns:
        The file's path, and its content without the appended digest.

    Raises:
        BuildError: The folder cannot be used, or what `build` raised.
    """
    digest = hashlib.sha256()
    for part in key:
        digest.update(len(part).to_bytes(8, "little") + part)
    stem, suffix = os.path.splitext(name)
    path = folder / f"{stem}-{digest.hexdigest()[:16]}{suffix}"
    try:
        make_private(folder)
        with locked(folder / f"{path.name}.lock"):
            content = _intact_content(path)
            if content is None:
                content = _built(path, build)
    except OSError as error:
        raise BuildError(
            f"the cache folder {folder} cannot be used ({error.strerror or error}); "
            "make it writable, or set XDG_CACHE_HOME to a folder that is"
        ) from error
    return path, content


def _intact_content(path: Path) -> bytes | None:
    """What was built, or None if there is no such file or it is damaged."""
    try:
        whole = path.read_bytes()
    except FileNotFoundError:
        return None
    content, digest = whole[:-_DIGEST_BYTES], whole[-_DIGEST_BYTES:]
    return content if hashlib.sha256(content).digest() == digest else None


def _built(path: Path, build: Callable[[Path], object]) -> bytes:
    """Build into a file beside the final one, and rename."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    try:
        build(unfinished)
        content = unfinished.read_bytes()
        with unfinished.open("ab") as file:
            file.write(hashlib.sha256(content).digest())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return content


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
