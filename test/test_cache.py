# SPDX-License-Identifier: Apache-2.0
"""The cache: what it refuses and why, what it survives, what it removes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tracker_ros.cache import Cache, Files, Key, NotCached, cache_folder

ROOT = Path(__file__).resolve().parents[1]
KEY = Key(
    "some_model track",
    {
        "onnx": "a" * 64,
        "precision": "fp16",
        "options": "workspace 1 byte",
        "driver": "540.4.0",
    },
)
INFO = {"summary": "16 crops: perfect"}
CONTENTS = {".plan": b"plan" * 1000, ".safetensors": b"trial" * 10}


def changed(subject: str = KEY.subject, **parts: str) -> Key:
    return Key(subject, {**KEY.parts, **parts})


# Builds unless another process has; says so in a file. Started twice at once.
BUILD_ONCE = """
import sys, time
from pathlib import Path
sys.path.insert(0, "test")
from test_cache import CONTENTS, INFO, KEY
from tracker_ros.cache import Cache

def make():
    with open(sys.argv[2], "a") as log:
        log.write("built\\n")
    time.sleep(0.5)
    return CONTENTS, INFO

cache = Cache(Path(sys.argv[1]))
assert cache.load(cache.obtain(KEY, make)) == CONTENTS
"""

# Writes with a limit on the size of files, which is what a full disk looks like to a program.
FULL_DISK = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, "test")
from test_cache import CONTENTS, INFO, KEY
from tracker_ros.cache import Cache

sys.dont_write_bytecode = True  # it would be cut, and kept
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    Cache(Path(sys.argv[1])).store(KEY, CONTENTS, INFO)
except OSError as error:
    print("refused:", error.__cause__.strerror)
"""


def start(program: str, *arguments: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "engines")


def file_of(cache: Cache, suffix: str, key: Key = KEY) -> Path:
    return cache.folder / f"{key.stem}{suffix}"


def load(cache: Cache, key: Key = KEY) -> Files:
    return cache.load(cache.find(key))


def test_what_is_stored_is_found_and_is_private(cache: Cache) -> None:
    cache.store(KEY, CONTENTS, INFO)
    assert load(cache) == CONTENTS
    assert cache.find(KEY).info == INFO
    assert cache.folder.stat().st_mode & 0o777 == 0o700
    names = {path.name for path in cache.folder.iterdir()}
    assert names == {f"{KEY.stem}{suffix}" for suffix in (".plan", ".safetensors", ".json")}
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in cache.folder.iterdir())
    assert KEY.stem.startswith("some_model-track-fp16-")


@pytest.mark.parametrize(
    ("part", "value", "reason"),
    [
        ("onnx", "b" * 64, "onnx is aaaaaaaaaaaa..., was bbbbbbbbbbbb..."),
        ("precision", "fp32", "precision is fp16, was fp32"),
        ("options", "none", "options is workspace 1 byte, was none"),
        ("driver", "580.1", "driver is 540.4.0, was 580.1"),
    ],
)
def test_a_mismatch_says_which_part_differs(
    cache: Cache, part: str, value: str, reason: str
) -> None:
    nearest = changed(**{part: value})
    other = changed(**{part: value, "gpu": "H200", "cuda": "13"})
    cache.store(other, CONTENTS, INFO)
    cache.store(nearest, CONTENTS, INFO)
    with pytest.raises(NotCached) as raised:
        cache.find(KEY)
    assert str(raised.value) == f"the cached entry of some_model track does not fit: {reason}"


def test_another_subject_is_no_mismatch(cache: Cache) -> None:
    cache.store(changed("some_model template"), CONTENTS, INFO)
    with pytest.raises(NotCached, match="^some_model track is not cached in "):
        cache.find(KEY)


def test_an_entry_under_another_s_name_is_refused(cache: Cache) -> None:
    other = changed(driver="580.1")
    cache.store(other, CONTENTS, INFO)
    for suffix in (".plan", ".safetensors", ".json"):
        file_of(cache, suffix, other).rename(file_of(cache, suffix))
    with pytest.raises(NotCached, match="belongs to another entry: driver is 540.4.0, was 580.1"):
        cache.find(KEY)


@pytest.mark.parametrize("suffix", [".plan", ".safetensors"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "one byte", "missing"])
def test_a_damaged_file_is_refused_and_replaced(cache: Cache, suffix: str, damage: str) -> None:
    cache.store(KEY, CONTENTS, INFO)
    path = file_of(cache, suffix)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    kept = {"truncated": len(content) // 3, "empty": 0}.get(damage, len(content))
    path.write_bytes(content[:kept])
    if damage == "missing":
        path.unlink()
    with pytest.raises(NotCached, match="damaged|No such file") as raised:
        load(cache)
    assert path.name in str(raised.value)
    assert cache.verify(KEY.stem) == str(raised.value)
    cache.store(KEY, CONTENTS, INFO)
    assert load(cache) == CONTENTS
    assert cache.verify(KEY.stem) == ""


@pytest.mark.parametrize("text", ["", "{}", "[]", "not JSON", '{"format": 2, "key": {}}', "null"])
def test_a_damaged_sidecar_is_refused(cache: Cache, text: str) -> None:
    cache.store(KEY, CONTENTS, INFO)
    file_of(cache, ".json").write_text(text)
    with pytest.raises(NotCached, match=r"\.json is damaged"):
        cache.find(KEY)


def test_a_sidecar_of_another_format_is_refused(cache: Cache) -> None:
    cache.store(KEY, CONTENTS, INFO)
    sidecar = json.loads(file_of(cache, ".json").read_text())
    file_of(cache, ".json").write_text(json.dumps(sidecar | {"format": 99}))
    with pytest.raises(NotCached, match="has format 99, not 2"):
        cache.find(KEY)


def test_files_without_a_sidecar_are_no_entry(cache: Cache) -> None:
    cache.store(KEY, CONTENTS, INFO)
    file_of(cache, ".json").unlink()
    with pytest.raises(NotCached, match="is not cached"):
        cache.find(KEY)
    assert cache.prune(cache.limit_bytes) == [KEY.stem]
    assert not file_of(cache, ".plan").exists()


@pytest.mark.parametrize("suffix", [".plan", ".safetensors", ".json"])
def test_a_link_is_not_followed(cache: Cache, tmp_path: Path, suffix: str) -> None:
    cache.store(KEY, CONTENTS, INFO)
    path = file_of(cache, suffix)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NotCached, match="is a link"):
        load(cache)


def test_a_dangling_link_for_a_sidecar_is_refused_and_replaced(
    cache: Cache, tmp_path: Path
) -> None:
    file_of(cache, ".json").symlink_to(tmp_path / "nowhere")
    with pytest.raises(NotCached, match="is a link"):
        cache.find(KEY)
    cache.store(KEY, CONTENTS, INFO)
    assert load(cache) == CONTENTS
    assert not (tmp_path / "nowhere").exists()


def test_writing_does_not_follow_a_link(cache: Cache, tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("kept")
    file_of(cache, ".part").symlink_to(target)
    file_of(cache, ".plan").symlink_to(target)
    cache.store(KEY, CONTENTS, INFO)
    assert target.read_text() == "kept"
    assert load(cache) == CONTENTS


@pytest.mark.parametrize("suffix", [".plan", ".safetensors", ".json"])
@pytest.mark.parametrize("mode", [0o640, 0o602])
def test_a_file_open_to_others_is_refused(cache: Cache, suffix: str, mode: int) -> None:
    cache.store(KEY, CONTENTS, INFO)
    file_of(cache, suffix).chmod(mode)
    with pytest.raises(NotCached, match="is open to others"):
        load(cache)


def test_another_user_s_file_is_refused(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.store(KEY, CONTENTS, INFO)
    monkeypatch.setattr(os, "getuid", lambda: os.geteuid() + 1)
    with pytest.raises(NotCached, match="is no regular file of user"):
        cache.find(KEY)


def test_a_pipe_in_place_of_a_file_does_not_block(cache: Cache) -> None:
    cache.store(KEY, CONTENTS, INFO)
    file_of(cache, ".plan").unlink()
    os.mkfifo(file_of(cache, ".plan"), 0o600)
    with pytest.raises(NotCached, match="is no regular file"):
        load(cache)


def test_a_device_in_place_of_a_file_is_not_opened(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.store(KEY, CONTENTS, INFO)
    opened = []
    found = os.stat(os.devnull)
    monkeypatch.setattr(os, "lstat", lambda path: found)
    monkeypatch.setattr(os, "open", lambda path, *flags: opened.append(path))
    assert "is no regular file" in cache.verify(KEY.stem)
    assert opened == []


@pytest.mark.parametrize("suffix", [".json", ".plan"])
def test_a_file_of_another_size_is_refused_unread(cache: Cache, suffix: str) -> None:
    cache.store(KEY, CONTENTS, INFO)
    with file_of(cache, suffix).open("r+b") as file:
        file.truncate(2**40)  # a hole: it takes no room on the disk, and hours to read
    assert f"{suffix} is damaged: it has {2**40} bytes" in cache.verify(KEY.stem)
    assert cache.prune(cache.limit_bytes, verify=True) == [KEY.stem]


def test_a_folder_with_an_entrys_name_is_left_alone(cache: Cache) -> None:
    cache.store(KEY, CONTENTS, INFO)
    file_of(cache, ".plan").unlink()
    file_of(cache, ".plan").mkdir()
    assert "is no regular file" in cache.verify(KEY.stem)
    cache.prune(0)
    assert [path.name for path in cache.folder.iterdir() if path.is_dir()] == [f"{KEY.stem}.plan"]


def test_unfinished_files_of_killed_processes_go(cache: Cache) -> None:
    left = cache.folder / f".{KEY.stem}.0123abcd.part.plan"
    left.write_bytes(b"half")
    os.utime(left, (0, 0))
    cache.store(changed("another"), CONTENTS, INFO)
    assert not left.exists()


def test_a_folder_of_others_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o770)
    with pytest.raises(PermissionError, match=r"drwxrwx---.*chmod 700"):
        Cache(shared)
    private = Cache(tmp_path / "private").folder
    (tmp_path / "link").symlink_to(private)
    with pytest.raises(PermissionError, match="real folder"):
        Cache(tmp_path / "link")
    monkeypatch.setattr(os, "getuid", lambda: os.geteuid() + 1)
    with pytest.raises(PermissionError, match="that nobody else may write to"):
        Cache(private)


def test_a_folder_that_others_may_read_is_taken_and_left_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "readable"
    folder.mkdir()
    folder.chmod(0o755)
    cache = Cache(folder)
    entry = cache.store(KEY, CONTENTS, INFO)
    assert cache.load(cache.find(KEY)) == CONTENTS
    assert folder.stat().st_mode & 0o777 == 0o755
    assert all(path.stat().st_mode & 0o077 == 0 for path in cache.paths(entry).values())


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    process = start(FULL_DISK, tmp_path / "engines")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert output == "refused: File too large\n"
    assert list((tmp_path / "engines").iterdir()) == []


def test_two_processes_at_once_build_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    both = [start(BUILD_ONCE, tmp_path / "engines", log) for _ in range(2)]
    for process in both:
        process.communicate(timeout=60)
    assert [process.returncode for process in both] == [0, 0]
    assert log.read_text() == "built\n"


def test_what_was_used_longest_ago_is_removed(cache: Cache) -> None:
    keys = [changed(f"model {number}") for number in range(3)]
    for age, key in enumerate(keys):
        cache.store(key, CONTENTS, INFO)
        os.utime(file_of(cache, ".json", key), (1000 + age, 1000 + age))
    load(cache, keys[0])  # used now
    size = cache.find(keys[0]).size
    cache.limit_bytes = 3 * size + size // 2
    newest = changed("model 3")
    cache.store(newest, CONTENTS, INFO)
    assert cache.stems() == sorted(key.stem for key in (keys[0], keys[2], newest))
    assert cache.prune(0) == [key.stem for key in (keys[2], keys[0], newest)]
    assert cache.stems() == []


def test_the_newest_is_kept_even_if_it_alone_is_too_large(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "engines", limit_bytes=1)
    cache.store(changed("model 0"), CONTENTS, INFO)
    cache.store(KEY, CONTENTS, INFO)
    assert cache.stems() == [KEY.stem]
    assert load(cache) == CONTENTS


def test_what_another_process_is_making_is_not_pruned(cache: Cache) -> None:
    cache.store(KEY, CONTENTS, INFO)
    with cache.lock(KEY.stem):
        assert cache.prune(0) == []
        assert load(cache) == CONTENTS
    assert cache.prune(0) == [KEY.stem]


def test_a_failure_is_remembered_without_files(cache: Cache) -> None:
    cache.store(KEY, CONTENTS, INFO)
    entry = cache.store(KEY, {}, {"problems": ["wrong"]})
    assert cache.find(KEY) == entry
    assert entry.info == {"problems": ["wrong"]}
    assert not file_of(cache, ".plan").exists()
    assert cache.verify(KEY.stem) == ""
    assert cache.load(entry) == {}


def test_files_of_others_in_the_folder_are_left_alone(cache: Cache) -> None:
    for name in ("notes.json", "track.onnx"):
        (cache.folder / name).write_text("mine")
    cache.store(KEY, CONTENTS, INFO)
    assert cache.prune(0) == [KEY.stem]
    assert {path.name for path in cache.folder.iterdir()} >= {"notes.json", "track.onnx"}


def test_a_cache_can_be_copied_and_read_without_writing(tmp_path: Path) -> None:
    made = Cache(tmp_path / "made")
    made.store(KEY, CONTENTS, INFO)
    copied = tmp_path / "copied"
    shutil.copytree(made.folder, copied)
    copied.chmod(0o500)
    assert Cache(copied).load(made.find(KEY)) == CONTENTS


def test_a_place_where_no_folder_can_be_made_holds_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = Cache(tmp_path / "file" / "engines")
    assert cache.stems() == []
    with pytest.raises(NotCached):
        cache.find(KEY)
    with pytest.raises(OSError, match="file"):
        cache.store(KEY, CONTENTS, INFO)


def test_looking_does_not_count_as_use(cache: Cache) -> None:
    cache.store(KEY, CONTENTS, INFO)
    os.utime(file_of(cache, ".json"), (1000, 1000))
    assert cache.verify(KEY.stem) == ""
    assert cache.find(KEY).used == 1000
    load(cache)
    assert cache.find(KEY).used > 1000


def test_the_user_s_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder("engines") == tmp_path / "tracker_ros" / "engines"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(RuntimeError, match="set HOME or XDG_CACHE_HOME"):
        cache_folder("engines")
