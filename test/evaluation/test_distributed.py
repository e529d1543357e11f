# SPDX-License-Identifier: Apache-2.0
"""An evaluation shared by processes gives the numbers of one process, and can be resumed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from tracker_ros.cli.main import main


@pytest.fixture(scope="module")
def data_set(tmp_path_factory):
    """Four short sequences of a square that moves; the last one leaves the others behind."""
    root = tmp_path_factory.mktemp("data")
    for number, frames in enumerate((6, 9, 5, 12)):
        folder = root / f"s{number}"
        (folder / "img").mkdir(parents=True)
        rng = np.random.default_rng(number)
        ground = rng.integers(60, 120, (96, 128, 3), np.uint8)
        patch = rng.integers(0, 255, (28, 28, 3), np.uint8)
        lines = []
        for index in range(frames):
            image, x = ground.copy(), 20 + (2 + number) * index
            image[30:58, x : x + 28] = patch[:, : max(128 - x, 0)]
            cv2.imwrite(str(folder / "img" / f"{index:04d}.png"), image)
            lines.append(f"{x},30,28,28")
        (folder / "groundtruth.txt").write_text("\n".join(lines))
        about = {"attributes": ["fast motion"] if number == 3 else []}
        (folder / "img" / "meta.json").write_text(json.dumps(about))
    return root


def results(folder: Path) -> dict:
    """Return what must not depend on who tracked what."""
    data = json.loads((folder / "results.json").read_text())
    for tracker in data["trackers"]:
        tracker.pop("frames_per_second")
        for sequence in tracker["sequences"]:
            sequence.pop("frames_per_second")
    data.pop("machine")
    return data


def evaluate(data_set: Path, out: Path, *options: str) -> list[str]:
    return ["evaluate", str(data_set), "--models", "kcf", "--fresh", "--out", str(out), *options]


def test_two_processes_give_the_numbers_of_one(data_set, tmp_path):
    assert main(evaluate(data_set, tmp_path / "one")) == 0
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*launcher, "--nproc-per-node", "2", "-m", "tracker_ros.cli.main"]
    command += evaluate(data_set, tmp_path / "two")
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert results(tmp_path / "two") == results(tmp_path / "one")
    assert done.stdout.count("| Tracker |") == 2, "one process reports"
    for name in ("s0", "s3"):
        ours, theirs = (
            json.loads((tmp_path / folder / "records" / "kcf" / f"{name}.json").read_text())
            for folder in ("one", "two")
        )
        assert ours["boxes"] == theirs["boxes"]
        assert ours["states"] == theirs["states"]


def test_what_is_finished_is_not_tracked_again(data_set, tmp_path, monkeypatch):
    from tracker_ros.evaluation import runner

    out = tmp_path / "out"
    command = [word for word in evaluate(data_set, out, "--resume") if word != "--fresh"]
    real, tracked = runner.run_ope, []

    def one_pass(tracker, sequence, *rest, **options):
        tracked.append(sequence.name)
        if len(tracked) == 3:
            raise KeyboardInterrupt
        return real(tracker, sequence, *rest, **options)

    monkeypatch.setattr(runner, "run_ope", one_pass)
    assert main(command) == 130
    assert json.loads((out / "results.json").read_text())["complete"] is False
    assert main(command) == 0
    assert tracked == ["s0", "s1", "s2", "s2", "s3"]
    assert len(results(out)["sequences"]) == 4
    kept = json.loads((out / "records" / "kcf" / "s0.json").read_text())
    assert len(kept["states"]) == 6


def test_resuming_needs_a_folder(data_set, capsys):
    assert main(["evaluate", str(data_set), "--models", "kcf", "--resume"]) == 2
    assert "--out" in capsys.readouterr().err
