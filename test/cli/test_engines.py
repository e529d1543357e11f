# SPDX-License-Identifier: Apache-2.0
"""`tracker-ros engines`: what it lists, what it finds damaged, what it removes."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from tracker_ros.checkpoints import sha256_of
from tracker_ros.cli.main import main
from tracker_ros.engines.cache import EngineCache, EngineKey

KEY = EngineKey(
    graph="some_model track",
    onnx="a" * 64,
    precision="fp16",
    options="none",
    tensorrt="tensorrt 10.3.0",
    driver="540.4.0",
    cuda="12.6",
    gpu="Orin",
    capability="8.7",
)
REFUSED = replace(KEY, graph="some_model fit")
SUMMARY = "16 crops: box IoU median 0.9990"


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    """One engine that has passed, used long ago, and one that was refused."""
    cache = EngineCache(tmp_path / "engines")
    cache.store(KEY, {"summary": SUMMARY}, (b"plan" * 250_000, b"trial"))
    cache.store(REFUSED, {"summary": "16 crops: wrong"}, None)
    os.utime(cache.folder / f"{KEY.stem}.json", (0, 0))
    return cache


@pytest.fixture
def exported(cache: EngineCache) -> list[Path]:
    """Two exported graphs of one megabyte; the first was used longest ago."""
    paths = [cache.folder / "onnx" / "some_model" / f"{name}.onnx" for name in ("fit", "track")]
    for age, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(900_000))
        path.with_suffix(".safetensors").write_bytes(bytes(100_000))
        parts = {
            part: {
                "file": path.with_suffix(suffix).name,
                "sha256": sha256_of(path.with_suffix(suffix)),
            }
            for part, suffix in (("model", ".onnx"), ("reference", ".safetensors"))
        }
        path.with_suffix(".json").write_text(json.dumps({"precision": "fp32", **parts}))
        os.utime(path.with_suffix(".json"), (age, age))
    return paths


def run(cache: EngineCache, *arguments: str) -> int:
    return main(["engines", *arguments, "--cache", str(cache.folder)])


def test_list_says_what_there_is(cache: EngineCache, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(cache) == 0
    text = capsys.readouterr().out
    assert f"{KEY.stem}: some_model track in fp16, tensorrt 10.3.0 on Orin, 1.0 MB" in text
    assert "used 1970-01-01T00:00:00Z" in text
    assert f"  passed: {SUMMARY}" in text
    assert "  refused: 16 crops: wrong" in text
    assert f"2 engines, 1.0 MB in {cache.folder}" in text
    assert run(cache, "list", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [engine["key"]["graph"] for engine in found["engines"]] == [
        "some_model fit",
        "some_model track",
    ]
    assert [engine["passed"] for engine in found["engines"]] == [False, True]


def test_verify_finds_what_is_damaged(
    cache: EngineCache, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(cache, "verify") == 0
    capsys.readouterr()
    with (cache.folder / f"{KEY.stem}.plan").open("ab") as plan:
        plan.write(b"more")
    assert run(cache, "list") == 0
    capsys.readouterr()
    assert run(cache, "verify") == 1
    assert f"{KEY.stem}.plan is damaged: 1000004 bytes" in capsys.readouterr().out
    (cache.folder / f"{REFUSED.stem}.json").write_text("{}")
    assert run(cache, "verify", "--json") == 1
    found = json.loads(capsys.readouterr().out)["engines"]
    assert all("is damaged" in engine["problem"] for engine in found)
    assert len(found) == 2


def test_prune_removes_what_is_damaged_or_too_much(
    cache: EngineCache, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(cache, "prune") == 0
    assert "0 engines removed, 2 kept" in capsys.readouterr().out
    assert run(cache, "prune", "--limit-mb", "0.5") == 0
    assert f"removed {KEY.stem}\n1 engines removed, 1 kept" in capsys.readouterr().out
    (cache.folder / f"{REFUSED.stem}.json").write_text("{}")
    assert run(cache, "prune", "--json") == 0
    assert json.loads(capsys.readouterr().out)["removed"] == [REFUSED.stem]
    assert cache.stems() == []


def test_exported_graphs_are_listed_and_verified(
    cache: EngineCache, exported: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(cache, "verify") == 0
    text = capsys.readouterr().out
    assert "some_model/fit: exported in fp32, 1.0 MB, used 1970-01-01T00:00:00Z" in text
    assert f"2 exported graphs, 2.0 MB in {cache.folder / 'onnx'}" in text
    exported[0].with_suffix(".safetensors").write_bytes(b"else")
    exported[1].with_suffix(".json").unlink()
    assert run(cache, "verify", "--json") == 1
    problems = [graph["problem"] for graph in json.loads(capsys.readouterr().out)["exported"]]
    assert problems[0] == "fit.safetensors damaged; export it again"
    assert problems[1].startswith("no manifest that can be read")


def test_exported_graphs_are_pruned_like_engines(
    cache: EngineCache, exported: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(cache, "prune") == 0
    assert "0 exported graphs removed, 2 kept" in capsys.readouterr().out
    assert run(cache, "prune", "--limit-mb", "1.5", "--json") == 0
    found = json.loads(capsys.readouterr().out)["exported"]
    assert found == {"removed": ["some_model/fit"], "kept": ["some_model/track"]}
    assert not list(exported[0].parent.glob("fit*"))
    exported[1].write_bytes(b"else")
    assert run(cache, "prune") == 0
    assert "removed some_model/track\n" in capsys.readouterr().out
    assert not list(exported[1].parent.iterdir())


def test_a_folder_that_is_not_there_is_not_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["engines", "--cache", str(tmp_path / "typo")]) == 2
    assert "typo is no folder" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments",
    [["prune", "--limit-mb", "-1"], ["prune", "--limit-mb", "inf"], ["list", "--limit-mb", "1"]],
)
def test_a_limit_is_for_prune(
    cache: EngineCache, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert run(cache, *arguments) == 2
    assert "is for prune, and at least 0" in capsys.readouterr().err


def test_a_folder_open_to_others_is_refused(
    cache: EngineCache, capsys: pytest.CaptureFixture[str]
) -> None:
    cache.folder.chmod(0o755)
    assert run(cache) == 2
    assert "chmod 700" in capsys.readouterr().err
