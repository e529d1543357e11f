# SPDX-License-Identifier: Apache-2.0
"""`tracker-ros engines`: what it lists, what it finds damaged, what it removes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tracker_ros.cache import Cache, Key
from tracker_ros.cli.main import main
from tracker_ros.engines.onnx_engine import graph_cache

PARTS = {"precision": "fp16", "tensorrt": "tensorrt 10.3.0", "gpu": "Orin"}
KEY, REFUSED = Key("some_model track", PARTS), Key("some_model fit", PARTS)
SUMMARY = "16 crops: box IoU median 0.9990"


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """One engine that has passed, used long ago, and one that was refused."""
    cache = Cache(tmp_path / "engines")
    cache.store(KEY, {".plan": b"plan" * 250_000}, {"summary": SUMMARY})
    cache.store(REFUSED, {}, {"summary": "16 crops: wrong"})
    os.utime(cache.folder / f"{KEY.stem}.json", (0, 0))
    return cache


@pytest.fixture
def exported(cache: Cache) -> list[Path]:
    """Two exported graphs of one megabyte; the first was used longest ago."""
    graphs, paths = graph_cache(cache.folder), []
    for age, name in enumerate(("fit", "track")):
        key = Key(f"some_model {name}", {"precision": "fp32"})
        files = {".onnx": bytes(900_000), ".safetensors": bytes(100_000)}
        paths.append(graphs.paths(graphs.store(key, files, {}))[".onnx"])
        os.utime(paths[-1].with_suffix(".json"), (age, age))
    return paths


def run(cache: Cache, *arguments: str) -> int:
    return main(["engines", *arguments, "--cache", str(cache.folder)])


def test_list_says_what_there_is(cache: Cache, capsys: pytest.CaptureFixture[str]) -> None:
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


def test_verify_finds_what_is_damaged(cache: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(cache, "verify") == 0
    capsys.readouterr()
    with (cache.folder / f"{KEY.stem}.plan").open("ab") as plan:
        plan.write(b"more")
    assert run(cache, "list") == 0
    capsys.readouterr()
    assert run(cache, "verify") == 1
    assert f"{KEY.stem}.plan is damaged: " in capsys.readouterr().out
    (cache.folder / f"{REFUSED.stem}.json").write_text("{}")
    assert run(cache, "verify", "--json") == 1
    found = json.loads(capsys.readouterr().out)["engines"]
    assert all("is damaged" in engine["problem"] for engine in found)
    assert len(found) == 2


def test_prune_removes_what_is_damaged_or_too_much(
    cache: Cache, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(cache, "prune") == 0
    assert "0 engines removed, 2 kept" in capsys.readouterr().out
    assert run(cache, "prune", "--limit-mb", "0.5") == 0
    assert f"removed {KEY.stem}\n1 engines removed, 1 kept" in capsys.readouterr().out
    (cache.folder / f"{REFUSED.stem}.json").write_text("{}")
    assert run(cache, "prune", "--json") == 0
    assert json.loads(capsys.readouterr().out)["engines"]["removed"] == [REFUSED.stem]
    assert cache.stems() == []


def test_exported_graphs_are_listed_and_verified(
    cache: Cache, exported: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(cache, "verify") == 0
    text = capsys.readouterr().out
    line = f"{exported[0].stem}: some_model fit in fp32, 1.0 MB, used 1970-01-01T00:00:00Z"
    assert line in text
    assert f"2 exported graphs, 2.0 MB in {cache.folder / 'onnx'}" in text
    exported[0].with_suffix(".safetensors").write_bytes(b"else")
    exported[1].with_suffix(".json").unlink()
    assert run(cache, "verify", "--json") == 1
    problems = [graph["problem"] for graph in json.loads(capsys.readouterr().out)["exported"]]
    assert problems[0].startswith(f"{exported[0].stem}.safetensors is damaged")
    assert problems[1].startswith(f"{exported[1].stem}.json cannot be read")


def test_exported_graphs_are_pruned_like_engines(
    cache: Cache, exported: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(cache, "prune") == 0
    assert "0 exported graphs removed, 2 kept" in capsys.readouterr().out
    assert run(cache, "prune", "--limit-mb", "1.5", "--json") == 0
    found = json.loads(capsys.readouterr().out)["exported"]
    assert found == {"removed": [exported[0].stem], "kept": [exported[1].stem]}
    assert not exported[0].exists()
    exported[1].write_bytes(b"else")
    assert run(cache, "prune") == 0
    assert f"removed {exported[1].stem}\n" in capsys.readouterr().out
    assert {path.suffix for path in exported[1].parent.iterdir()} == {".lock"}


def test_a_folder_that_is_not_there_is_not_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["engines", "--cache", str(tmp_path / "typo")]) == 2
    assert "typo is no folder" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments",
    [
        ["prune", "--limit-mb", "-1"],
        ["prune", "--limit-mb", "inf"],
        ["prune", "--limit-mb", "1e308"],
        ["list", "--limit-mb", "1"],
    ],
)
def test_a_limit_is_for_prune(
    cache: Cache, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert run(cache, *arguments) == 2
    assert "is for prune, and at least 0" in capsys.readouterr().err


def test_an_entry_without_the_usual_facts_is_listed(
    cache: Cache, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign = Key("another_thing", {"tensorrt": "10"})
    cache.store(foreign, {".plan": b"plan"}, {})
    assert run(cache) == 0
    assert foreign.stem in capsys.readouterr().out


def test_a_folder_open_to_others_is_refused(
    cache: Cache, capsys: pytest.CaptureFixture[str]
) -> None:
    cache.folder.chmod(0o777)
    assert run(cache) == 2
    assert "chmod 700" in capsys.readouterr().err
