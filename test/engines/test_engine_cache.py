# SPDX-License-Identifier: Apache-2.0
"""The cache of engines: what it refuses and why, what it survives, what it throws away."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tracker_ros.engines.cache import EngineCache, EngineKey, NotCached

ROOT = Path(__file__).resolve().parents[2]
KEY = EngineKey(
    graph="some_model track",
    onnx="a" * 64,
    precision="fp16",
    options="workspace 1 byte",
    tensorrt="tensorrt 10.3.0",
    driver="540.4.0",
    cuda="12.6",
    gpu="Orin",
    capability="8.7",
)
GATE = {"summary": "16 crops: perfect"}
CONTENTS = (b"plan" * 1000, b"trial" * 10)

# Builds unless another process has; says so in a file. Started twice at once.
BUILD_ONCE = """
import sys, time
from pathlib import Path
sys.path.insert(0, "test/engines")
from test_engine_cache import CONTENTS, GATE, KEY
from tracker_ros.engines.cache import EngineCache, NotCached

cache = EngineCache(Path(sys.argv[1]))
with cache.building(KEY):
    try:
        entry = cache.find(KEY)
    except NotCached:
        with open(sys.argv[2], "a") as log:
            log.write("built\\n")
        time.sleep(0.5)
        cache.store(KEY, GATE, CONTENTS)
        entry = cache.find(KEY)
assert cache.load(entry) == CONTENTS
"""

# Writes with a limit on the size of files, which is what a full disk looks like to a program.
FULL_DISK = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, "test/engines")
from test_engine_cache import CONTENTS, GATE, KEY
from tracker_ros.engines.cache import EngineCache

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    EngineCache(Path(sys.argv[1])).store(KEY, GATE, CONTENTS)
except OSError as error:
    print("refused:", error.strerror)
"""


def start(program: str, *arguments: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "engines")


def file_of(cache: EngineCache, suffix: str, key: EngineKey = KEY) -> Path:
    return cache.folder / f"{key.stem}{suffix}"


def load(cache: EngineCache, key: EngineKey = KEY) -> tuple[bytes, bytes]:
    return cache.load(cache.find(key))


def test_what_is_stored_is_found_and_is_private(cache: EngineCache) -> None:
    cache.store(KEY, GATE, CONTENTS)
    assert load(cache) == CONTENTS
    assert cache.find(KEY).gate == GATE
    assert cache.folder.stat().st_mode & 0o777 == 0o700
    names = {path.name for path in cache.folder.iterdir()}
    assert names == {f"{KEY.stem}{suffix}" for suffix in (".plan", ".safetensors", ".json")}
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in cache.folder.iterdir())
    assert KEY.stem.startswith("some-model-track-fp16-")


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("onnx", "b" * 64, "onnx is aaaaaaaaaaaa..., was bbbbbbbbbbbb..."),
        ("precision", "fp32", "precision is fp16, was fp32"),
        ("options", "none", "options is workspace 1 byte, was none"),
        ("tensorrt", "tensorrt 10.16.1", "tensorrt is tensorrt 10.3.0, was tensorrt 10.16.1"),
        ("driver", "580.1", "driver is 540.4.0, was 580.1"),
        ("cuda", "13.0", "cuda is 12.6, was 13.0"),
        ("gpu", "H200", "gpu is Orin, was H200"),
        ("capability", "9.0", "capability is 8.7, was 9.0"),
    ],
)
def test_a_mismatch_says_which_field_differs(
    cache: EngineCache, field: str, value: str, said: str
) -> None:
    nearest = replace(KEY, **{field: value})
    cache.store(replace(nearest, options="more", driver="differs"), GATE, CONTENTS)
    cache.store(nearest, GATE, CONTENTS)
    with pytest.raises(NotCached) as raised:
        cache.find(KEY)
    assert str(raised.value) == f"the cached engine of some_model track does not fit: {said}"


def test_another_graph_is_no_mismatch(cache: EngineCache) -> None:
    cache.store(replace(KEY, graph="some_model template"), GATE, CONTENTS)
    with pytest.raises(NotCached, match="^no engine of some_model track is cached$"):
        cache.find(KEY)


def test_an_entry_under_another_s_name_is_refused(cache: EngineCache) -> None:
    other = replace(KEY, gpu="H200")
    cache.store(other, GATE, CONTENTS)
    for suffix in (".plan", ".safetensors", ".json"):
        file_of(cache, suffix, other).rename(file_of(cache, suffix))
    with pytest.raises(NotCached, match="belongs to another engine: gpu is Orin, was H200"):
        cache.find(KEY)


@pytest.mark.parametrize("suffix", [".plan", ".safetensors"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "one byte", "missing"])
def test_a_damaged_file_is_refused_and_replaced(
    cache: EngineCache, suffix: str, damage: str
) -> None:
    cache.store(KEY, GATE, CONTENTS)
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
    cache.store(KEY, GATE, CONTENTS)
    assert load(cache) == CONTENTS
    assert cache.verify(KEY.stem) == ""


@pytest.mark.parametrize("text", ["", "{}", "[]", "not JSON", '{"format": 1, "key": {}}', "null"])
def test_a_damaged_sidecar_is_refused(cache: EngineCache, text: str) -> None:
    cache.store(KEY, GATE, CONTENTS)
    file_of(cache, ".json").write_text(text)
    with pytest.raises(NotCached, match=r"\.json is damaged"):
        cache.find(KEY)


def test_a_sidecar_of_another_format_is_refused(cache: EngineCache) -> None:
    cache.store(KEY, GATE, CONTENTS)
    sidecar = json.loads(file_of(cache, ".json").read_text())
    file_of(cache, ".json").write_text(json.dumps(sidecar | {"format": 99}))
    with pytest.raises(NotCached, match="has format 99, not 1"):
        cache.find(KEY)


def test_a_plan_without_a_sidecar_is_no_entry(cache: EngineCache) -> None:
    cache.store(KEY, GATE, CONTENTS)
    file_of(cache, ".json").unlink()
    with pytest.raises(NotCached, match="no engine"):
        cache.find(KEY)
    assert cache.prune(cache.limit_bytes) == [KEY.stem]
    assert not file_of(cache, ".plan").exists()


@pytest.mark.parametrize("suffix", [".plan", ".safetensors", ".json"])
def test_a_link_is_not_followed(cache: EngineCache, tmp_path: Path, suffix: str) -> None:
    cache.store(KEY, GATE, CONTENTS)
    path = file_of(cache, suffix)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NotCached, match="is a link"):
        load(cache)


def test_a_dangling_link_for_a_sidecar_is_refused_and_replaced(
    cache: EngineCache, tmp_path: Path
) -> None:
    file_of(cache, ".json").symlink_to(tmp_path / "nowhere")
    with pytest.raises(NotCached, match="is a link"):
        cache.find(KEY)
    cache.store(KEY, GATE, CONTENTS)
    assert load(cache) == CONTENTS
    assert not (tmp_path / "nowhere").exists()


def test_writing_does_not_follow_a_link(cache: EngineCache, tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("kept")
    file_of(cache, ".part").symlink_to(target)
    file_of(cache, ".plan").symlink_to(target)
    cache.store(KEY, GATE, CONTENTS)
    assert target.read_text() == "kept"
    assert load(cache) == CONTENTS


@pytest.mark.parametrize("suffix", [".plan", ".safetensors", ".json"])
@pytest.mark.parametrize("mode", [0o640, 0o602])
def test_a_file_open_to_others_is_refused(cache: EngineCache, suffix: str, mode: int) -> None:
    cache.store(KEY, GATE, CONTENTS)
    file_of(cache, suffix).chmod(mode)
    with pytest.raises(NotCached, match="is open to others"):
        load(cache)


def test_another_user_s_file_is_refused(
    cache: EngineCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.store(KEY, GATE, CONTENTS)
    monkeypatch.setattr(os, "getuid", lambda: os.geteuid() + 1)
    with pytest.raises(NotCached, match="is no regular file of user"):
        cache.find(KEY)


def test_a_pipe_in_place_of_a_file_does_not_block(cache: EngineCache) -> None:
    cache.store(KEY, GATE, CONTENTS)
    file_of(cache, ".plan").unlink()
    os.mkfifo(file_of(cache, ".plan"), 0o600)
    with pytest.raises(NotCached, match="is no regular file"):
        load(cache)


def test_a_folder_of_others_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o770)
    with pytest.raises(PermissionError, match=r"drwxrwx---.*chmod 700"):
        EngineCache(shared)
    private = EngineCache(tmp_path / "private").folder
    (tmp_path / "link").symlink_to(private)
    with pytest.raises(PermissionError, match="real folder"):
        EngineCache(tmp_path / "link")
    monkeypatch.setattr(os, "getuid", lambda: os.geteuid() + 1)
    with pytest.raises(PermissionError, match="that nobody else may enter"):
        EngineCache(private)


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


def test_what_was_used_longest_ago_is_removed(cache: EngineCache) -> None:
    keys = [replace(KEY, graph=f"model {number}") for number in range(3)]
    for age, key in enumerate(keys):
        cache.store(key, GATE, CONTENTS)
        os.utime(file_of(cache, ".json", key), (1000 + age, 1000 + age))
    load(cache, keys[0])  # used now
    size = cache.find(keys[0]).size
    cache.limit_bytes = 3 * size + size // 2
    newest = replace(KEY, graph="model 3")
    cache.store(newest, GATE, CONTENTS)
    assert cache.stems() == sorted(key.stem for key in (keys[0], keys[2], newest))
    assert cache.prune(0) == [key.stem for key in (keys[2], keys[0], newest)]
    assert cache.stems() == []


def test_the_newest_is_kept_even_if_it_alone_is_too_large(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path / "engines", limit_bytes=1)
    cache.store(replace(KEY, graph="model 0"), GATE, CONTENTS)
    cache.store(KEY, GATE, CONTENTS)
    assert cache.stems() == [KEY.stem]
    assert load(cache) == CONTENTS


def test_what_is_being_built_is_not_pruned(cache: EngineCache) -> None:
    cache.store(KEY, GATE, CONTENTS)
    with cache.building(KEY):
        assert cache.prune(0) == []
        assert load(cache) == CONTENTS
    assert cache.prune(0) == [KEY.stem]


def test_a_refused_plan_is_remembered_and_not_kept(cache: EngineCache) -> None:
    cache.store(KEY, GATE, CONTENTS)
    cache.store(KEY, {"problems": ["wrong"]}, None)
    entry = cache.find(KEY)
    assert not entry.passed
    assert entry.gate == {"problems": ["wrong"]}
    assert not file_of(cache, ".plan").exists()
    assert cache.verify(KEY.stem) == ""
    with pytest.raises(NotCached, match="failed the gate"):
        cache.load(entry)
