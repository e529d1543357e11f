# SPDX-License-Identifier: Apache-2.0
"""Files that are there whole or not at all: full disks, killed processes, links, devices."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tracker_ros.output_files import (
    UnfinishedFile,
    check_outputs,
    check_writable,
    remove_left_overs,
    replacement,
    write_whole,
)

# Limits the size of files, which is what a full disk looks like to a program.
FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from tracker_ros.output_files import write_whole
sys.dont_write_bytecode = True  # it would be cut, and kept
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_whole(Path(sys.argv[1]), bytes(5000))
except OSError as error:
    print(error)
"""
HOLDS_A_FILE = """
import sys
from pathlib import Path
from tracker_ros.output_files import UnfinishedFile
unfinished = UnfinishedFile(Path(sys.argv[1]))
unfinished.path.write_text("half")
print(unfinished.path, flush=True)
sys.stdin.read()
"""


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_file_is_replaced_and_keeps_its_mode(tmp_path):
    target = tmp_path / "new" / "results.json"
    write_whole(target, "one")
    assert target.stat().st_mode & 0o777 == 0o666 & ~_umask()
    target.chmod(0o640)
    write_whole(target, b"two")
    assert target.read_bytes() == b"two"
    assert target.stat().st_mode & 0o777 == 0o640
    assert names(target.parent) == {"results.json"}
    write_whole(tmp_path / "secret", "s", private=True)
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_what_fails_keeps_the_earlier_file(tmp_path):
    target = tmp_path / "results.json"
    target.write_text("earlier")
    with pytest.raises(KeyError), replacement(target) as place:
        place.write_text("half")
        raise KeyError
    assert target.read_text() == "earlier"
    assert names(tmp_path) == {"results.json"}


def test_a_full_disk_keeps_the_earlier_file_and_is_named(tmp_path):
    target = tmp_path / "results.json"
    target.write_text("earlier")
    command = [sys.executable, "-c", FULL_DISK, str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert str(target) in done.stdout
    assert "File too large" in done.stdout
    assert target.read_text() == "earlier"
    assert names(tmp_path) == {"results.json"}


def test_a_link_is_followed_and_stays(tmp_path):
    (tmp_path / "disk").mkdir()
    link = tmp_path / "results.json"
    link.symlink_to(tmp_path / "disk" / "real.json")
    for text in ("first", "second"):
        write_whole(link, text)
        assert link.is_symlink()
        assert (tmp_path / "disk" / "real.json").read_text() == text


def test_devices_and_pipes_are_written_to_and_stay(tmp_path):
    write_whole(Path(os.devnull), "gone")
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_whole(tmp_path / "pipe", "through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    code = (
        "from pathlib import Path; from tracker_ros.output_files import write_whole; "
        "write_whole(Path('/dev/stdout'), 'shown')"
    )
    with (tmp_path / "shown").open("w") as out:
        subprocess.run([sys.executable, "-c", code], stdout=out, check=True)
    assert (tmp_path / "shown").read_text() == "shown"


@pytest.mark.parametrize("place", ["folder", "file/below", "/proc/none/below"])
def test_a_place_that_cannot_be_written_is_named_beforehand(tmp_path, place):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("in the way")
    target = tmp_path / place  # an absolute place stays as it is
    with pytest.raises(OSError, match=str(target)):
        check_writable(tmp_path / "good", target)
    assert names(tmp_path) == {"folder", "file"}


def test_what_a_killed_process_has_left_goes_when_it_is_old_and_free(tmp_path):
    target = tmp_path / "out.mp4"
    command = [sys.executable, "-c", HOLDS_A_FILE, str(target)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        left = Path(process.stdout.readline().decode().strip())
        old = time.time() - 3600
        os.utime(left, (old, old))
        assert remove_left_overs(tmp_path) == [], "its process still writes"
        process.kill()
    other = tmp_path / ".else.0123abcd.part.mp4"
    young = tmp_path / ".out.0123abcd.part.mp4"
    for path in (other, young):
        path.write_text("left")
    os.utime(other, (old, old))
    assert left.exists()
    write_whole(target, "whole")
    assert names(tmp_path) == {"out.mp4", other.name, young.name}
    assert remove_left_overs(tmp_path) == [other]


def test_files_that_only_look_unfinished_stay(tmp_path):
    for name in ("out.part.mp4", ".out.part.mp4", ".out.0123ABCD.part.mp4", ".x.0123abcd.part.d"):
        path = tmp_path / name
        path.mkdir() if name.endswith(".d") else path.write_text("mine")
        os.utime(path, (0, 0))
    assert remove_left_overs(tmp_path) == []


def test_finishing_twice_does_nothing_more(tmp_path):
    unfinished = UnfinishedFile(tmp_path / "a")
    unfinished.path.write_text("a")
    unfinished.finish()
    unfinished.finish()
    unfinished.discard()
    assert (tmp_path / "a").read_text() == "a"


@pytest.mark.parametrize("how", ["same", "link", "hard link", "inside", "each other"])
def test_outputs_that_are_inputs_are_refused_by_name(tmp_path, how):
    video, frames = tmp_path / "a.mp4", tmp_path / "frames"
    video.write_text("video")
    frames.mkdir()
    out = {"same": tmp_path / "frames" / ".." / "a.mp4", "inside": frames / "drawn.mp4"}.get(
        how, tmp_path / "out.mp4"
    )
    if how == "link":
        out.symlink_to(video)
    if how == "hard link":
        out.hardlink_to(video)
    outputs = {"--out": out, "--results": out if how == "each other" else None}
    with pytest.raises(ValueError, match=r"--results|--out") as refusal:
        check_outputs(outputs, {"the video": video, "--frames": frames, "--mask": None})
    assert any(name in str(refusal.value) for name in ("the video", "--frames", "--out"))
    check_outputs({"--out": tmp_path / "fine.mp4", "--results": None}, {"the video": video})
