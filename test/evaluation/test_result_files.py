# SPDX-License-Identifier: Apache-2.0
"""Results as the benchmarks' tools read them, and evaluations of which a part fails."""

import json

import cv2
import numpy as np
import pytest

from tracker_ros.cli.main import main
from tracker_ros.evaluation.ope import TrackedSequence
from tracker_ros.evaluation.result_files import save_label_maps, save_results
from tracker_ros.evaluation.sequences import AnnotatedSequence
from tracker_ros.io.mask_files import read_label_map

FRAMES = tuple(np.zeros((20, 30, 3), np.uint8) for _ in range(3))
BOXES = np.array([[1.0, 2, 3, 4], [2, 3, 4.5, 5], [3, 4, 5, 6]])
SEQUENCE = AnnotatedSequence("a", FRAMES, BOXES)
ANSWER = TrackedSequence(
    BOXES, np.array([1.0, 0.5, 0.25]), 0.3, frame_seconds=np.array([0.0, 0.1, 0.2])
)


def test_got10k(tmp_path):
    save_results(tmp_path, "got10k", SEQUENCE, ANSWER)
    boxes = np.loadtxt(tmp_path / "a" / "a_001.txt", delimiter=",")
    assert np.allclose(boxes, BOXES, atol=1e-3)
    assert np.loadtxt(tmp_path / "a" / "a_time.txt").tolist() == [0.0, 0.1, 0.2]


def test_boxes_count_from_one_where_the_benchmark_does(tmp_path):
    save_results(tmp_path, "boxes", SEQUENCE, ANSWER, 1.0)
    assert (tmp_path / "a.txt").read_text().splitlines()[1] == "3.000,4.000,4.500,5.000"


def test_vot(tmp_path):
    save_results(tmp_path, "vot", SEQUENCE, ANSWER)
    folder = tmp_path / "baseline" / "a"
    lines = (folder / "a_001.txt").read_text().splitlines()
    assert lines == ["1", "2.000,3.000,4.500,5.000", "3.000,4.000,5.000,6.000"]
    assert len((folder / "a_001_time.value").read_text().splitlines()) == 3
    scores = (folder / "a_001_confidence.value").read_text().splitlines()
    assert scores == ["", "0.50000000", "0.25000000"]


def test_davis(tmp_path):
    masks = np.zeros((2, 20, 30), bool)
    masks[0, 2:8, 2:9], masks[1, 6:15, 5:20] = True, True
    video = [
        AnnotatedSequence(f"v.{n}", FRAMES, BOXES, {}, (mask,) * 3, n, "v")
        for n, mask in zip((1, 4), masks, strict=True)
    ]
    answers = [TrackedSequence(BOXES, ANSWER.scores, 0.3, (mask,) * 3) for mask in masks]
    save_label_maps(tmp_path, video, answers)
    labels = read_label_map(tmp_path / "v" / "00002.png")
    assert np.array_equal(labels == 4, masks[1])
    assert np.array_equal(labels == 1, masks[0] & ~masks[1])
    save_label_maps(tmp_path / "box", video[:1], [ANSWER])
    assert (read_label_map(tmp_path / "box" / "v" / "00001.png") == 1).sum() == 4 * 5


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A good sequence, one without annotations, and two with a broken first or second image."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name, lines in {"bad": 3, "good": 3, "gap": 3, "test": 1}.items():
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        picture = np.random.default_rng(1).integers(0, 255, (60, 80, 3), np.uint8)
        for index in range(3):
            cv2.imwrite(str(folder / f"{index}.png"), picture)
        (folder / "groundtruth.txt").write_text("20,20,24,20\n" * lines)
    (tmp_path / "data" / "bad" / "0.png").write_bytes(b"broken")
    (tmp_path / "data" / "gap" / "1.png").write_bytes(b"broken")
    return tmp_path / "data"


def test_a_failing_sequence_does_not_end_the_evaluation(data, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["evaluate", str(data), "--models", "kcf", "--out", str(out)]) == 1
    told = capsys.readouterr().err
    assert "left out: test: " in told
    assert "kcf failed on bad: " in told
    results = json.loads((out / "results.json").read_text())
    assert [entry["sequence"] for entry in results["trackers"][0]["sequences"]] == ["gap", "good"]
    assert [text.split(":")[0] for text in results["left_out"]] == ["test", "kcf"]
    assert "failed on bad" in results["trackers"][0]["note"]


def test_an_image_that_cannot_be_read_costs_its_frame_only(data, tmp_path, capsys):
    out = tmp_path / "out"
    folders = [str(data / "gap"), str(data / "good")]
    assert main(["evaluate", *folders, "--models", "kcf", "--out", str(out)]) == 3
    (line,) = [text for text in capsys.readouterr().err.splitlines() if "1.png" in text]
    results = json.loads((out / "results.json").read_text())
    assert results["left_out"] == []
    (told,) = results["bad_frames"]["kcf"]["gap"]
    assert told in line and "frame 1" in told
    gap = np.loadtxt(out / "boxes" / "kcf" / "gap.txt", delimiter=",")
    assert gap[1].tolist() == gap[0].tolist()  # the last answer counts
    assert len(gap) == 3


def test_a_test_split_is_tracked_for_its_server(data, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["evaluate", str(data / "test"), "--models", "kcf", "--save", "got10k"]
    assert main([*command, "--out", str(out)]) == 0
    boxes = np.loadtxt(out / "got10k" / "kcf" / "test" / "test_001.txt", delimiter=",")
    assert boxes.shape == (3, 4)
    assert boxes[0].tolist() == [20, 20, 24, 20]
    assert main(command) == 2
    assert "give it with --out" in capsys.readouterr().err
    assert main([*command, "tiff", "--out", str(out)]) == 2
    assert "'tiff'" in capsys.readouterr().err
