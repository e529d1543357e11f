# SPDX-License-Identifier: Apache-2.0
"""The command line as a whole, and its smaller commands."""

import json
import os
import signal
import subprocess
import sys

import cv2
import numpy as np
import pytest

from tracker_ros.cli.main import COMMANDS, main, program
from tracker_ros.process import SPINNING, Terminated
from tracker_ros.registry import list_models
from tracker_ros.tracker import TrackResult


def _run(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )


def test_help_is_light():
    done = _run(
        "import sys\n"
        "from tracker_ros.cli.main import main\n"
        "try:\n"
        "    main(['--help'])\n"
        "except SystemExit as end:\n"
        "    assert end.code == 0\n"
        "heavy = {'torch', 'cv2', 'numpy', 'rclpy', 'av'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    assert done.returncode == 0, done.stderr
    for command in COMMANDS:
        assert command in done.stdout


def test_reader_that_stops_early_is_no_error():
    command = f"set -o pipefail; {sys.executable} -m tracker_ros.cli.main models | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_wrong_usage_exits_2(capsys):
    with pytest.raises(SystemExit) as end:
        main(["repair"])
    assert end.value.code == 2
    assert "invalid choice: 'repair'" in capsys.readouterr().err


def test_models_lists_every_model_with_its_licence(capsys):
    assert main(["models"]) == 0
    table = capsys.readouterr().out
    assert main(["models", "--json"]) == 0
    cards = json.loads(capsys.readouterr().out)
    assert list(cards) == list_models()
    for name, card in cards.items():
        assert name in table
        assert card["licence"] in table
    assert cards["ostrack_tiny"]["weights"] == "ostrack_tiny.safetensors"


def test_convert_checkpoint_writes_beside_the_checkpoint(tmp_path, capsys):
    import torch
    from safetensors.torch import load_file

    torch.save({"net": {"a.weight": torch.arange(6.0)}}, tmp_path / "net.pth.tar")
    assert main(["convert-checkpoint", str(tmp_path / "net.pth.tar"), "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert done["path"] == str(tmp_path / "net.safetensors")
    assert (done["tensors"], done["values"], done["models"]) == (1, 6, [])
    assert load_file(done["path"])["a.weight"].tolist() == [0, 1, 2, 3, 4, 5]
    assert main(["convert-checkpoint", str(tmp_path / "none.pth")]) == 2
    assert "no checkpoint at" in capsys.readouterr().err
    assert main(["convert-checkpoint", str(tmp_path / "net.pth.tar"), "net.bin"]) == 2
    assert "ending in .safetensors" in capsys.readouterr().err


def test_train_refuses_a_missing_recipe(capsys):
    assert main(["train", "nowhere.yaml"]) == 2
    assert "no recipe at 'nowhere.yaml'" in capsys.readouterr().err


@pytest.fixture
def sequences(tmp_path):
    """Two short sequences: a textured square over noise, moving right."""
    generator = np.random.default_rng(0)
    for name in ("left", "right"):
        folder = tmp_path / "data" / name
        (folder / "img").mkdir(parents=True)
        ground = generator.integers(60, 120, (120, 160, 3), dtype=np.uint8)
        patch = generator.integers(0, 255, (32, 32, 3), dtype=np.uint8)
        lines = []
        for index in range(6):
            image = ground.copy()
            x = 30 + 2 * index
            image[40:72, x : x + 32] = patch
            cv2.imwrite(str(folder / "img" / f"{index:06d}.png"), image)
            lines.append(f"{x},40,32,32\n")
        (folder / "groundtruth.txt").write_text("".join(lines))
        (folder / "meta.json").write_text('{"dataset": "made here", "licence": "none needed"}')
    return tmp_path / "data"


def test_evaluate_writes_tables_boxes_and_plot(
    sequences, untrained_weights, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    out, page = tmp_path / "out", tmp_path / "docs" / "accuracy.md"
    arguments = ["evaluate", str(sequences), "--models", "ostrack_tiny", "kcf"]
    arguments += ["--weights", f"ostrack_tiny={untrained_weights}"]
    assert main([*arguments, "--out", str(out), "--markdown", str(page)]) == 0
    printed = capsys.readouterr().out
    assert "| kcf | **" in printed
    results = json.loads((out / "results.json").read_text())
    ours, kcf = results["trackers"]
    assert [score["sequence"] for score in kcf["sequences"]] == ["left", "right"]
    assert kcf["auc"] > 0.6
    assert kcf["sequences"][0]["frames"] == 5
    assert "untrained.safetensors" in ours["note"]
    counted = kcf["benchmarks"]
    assert set(counted) == {"got10k", "otb", "lasot", "vot", "vot_long_term"}
    assert counted["got10k"]["average_overlap"] == pytest.approx(
        np.mean([score["mean_overlap"] for score in kcf["sequences"]])
    )
    assert counted["otb"]["success"] > kcf["auc"]  # the first frame counts
    assert counted["vot"]["robustness"] == 1.0
    assert f"{counted['vot_long_term']['f_score']:.3f}" in printed
    boxes = np.loadtxt(out / "boxes" / "kcf" / "left.txt", delimiter=",")
    assert boxes[0].tolist() == [30, 40, 32, 32]
    assert cv2.imread(str(page.parent / "media" / "success.png")) is not None
    text = page.read_text()
    assert f"{kcf['auc']:.3f}" in text
    assert "made here" in text
    assert "media/success.png" in text
    assert str(tmp_path) not in text, "no path of this machine"


def test_evaluate_takes_yardsticks_from_the_cache(sequences, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    arguments = ["evaluate", str(sequences), "--models", "kcf", "--json"]
    assert main(arguments) == 0
    first = json.loads(capsys.readouterr().out)
    monkeypatch.setattr(
        "tracker_ros.evaluation.baselines.OpenCvTracker.track",
        lambda self, image: pytest.fail("tracked again"),
    )
    assert main(arguments) == 0
    second = json.loads(capsys.readouterr().out)
    assert second["trackers"] == first["trackers"]


def test_evaluate_notes_that_lost_targets_were_looked_for(sequences, capsys):
    arguments = ["evaluate", str(sequences), "--models", "ostrack_tiny", "--json"]
    notes = []
    for more in ([], ["--redetect"]):
        assert main([*arguments, *more]) == 0
        (tracker,) = json.loads(capsys.readouterr().out)["trackers"]
        notes.append(tracker["note"])
    assert notes[0] != notes[1]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_evaluate_keeps_the_scores_so_far(
    sequences, tmp_path, monkeypatch, capsys, number, status
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    frames = []

    def track(self, image):
        frames.append(image)
        if len(frames) == 8:  # in the second sequence
            raise Terminated if number == signal.SIGTERM else KeyboardInterrupt
        return TrackResult((30.0, 40.0, 32.0, 32.0), 1.0, None, (0.0, 0.0, 9.0, 9.0))

    monkeypatch.setattr("tracker_ros.evaluation.baselines.OpenCvTracker.track", track)
    out = tmp_path / "out"
    out.mkdir()
    (out / "accuracy.md").write_text("the earlier page")
    arguments = ["evaluate", str(sequences), "--models", "kcf", "csrt", "--out", str(out)]
    assert main(arguments) == status
    results = json.loads((out / "results.json").read_text())
    assert (results["complete"], results["ended_by"]) == (False, number.name)
    (kcf,) = results["trackers"]
    assert [score["sequence"] for score in kcf["sequences"]] == ["left"]
    assert (out / "accuracy.md").read_text() == "the earlier page"
    assert (out / "boxes" / "kcf" / "left.txt").exists()


def test_evaluate_never_writes_over_its_weights(sequences, untrained_weights, capsys):
    before = untrained_weights.read_bytes()
    weights = ["--weights", f"ostrack_tiny={untrained_weights}"]
    assert main(["evaluate", str(sequences), *weights, "--markdown", str(untrained_weights)]) == 2
    assert "--markdown" in capsys.readouterr().err
    assert untrained_weights.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "no sequences at 'nowhere'"),
        (["DATA", "--models", "csrtt"], "model 'csrtt' is unknown"),
        (["DATA", "--models", "kcf", "kcf"], "more than once"),
        (["DATA", "DATA", "--models", "kcf"], "two sequences are called 'left'"),
        (["DATA", "--models", "kcf", "--weights", "x"], "write MODEL=FILE"),
        (["DATA", "--models", "kcf", "--weights", "kcf=none"], "no weights at 'none'"),
    ],
)
def test_evaluate_errors_are_one_line_and_exit_2(arguments, message, sequences, capsys):
    arguments = [str(sequences) if part == "DATA" else part for part in arguments]
    assert main(["evaluate", *arguments]) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize(("command", "spins"), [("track", "1000"), ("train", None)])
def test_threads_spin_where_nobody_else_wants_the_cores(monkeypatch, command, spins):
    for name in SPINNING:
        monkeypatch.setenv(name, "")  # so that it is restored afterwards
        monkeypatch.delenv(name)
    monkeypatch.setattr("sys.argv", ["tracker-ros", command])
    seen = []
    monkeypatch.setattr(
        "tracker_ros.cli.main.main",
        lambda: seen.append([os.environ.get(name) for name in SPINNING]) or 0,
    )
    assert program() == 0
    assert seen == [["passive", spins]]
