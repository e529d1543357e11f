# SPDX-License-Identifier: Apache-2.0
"""Runs over recordings whose truth is known, and what follows from them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from recordings import STEP_NS, box

from tracker_ros.bags.truth import match_truth, truth_of_file, truth_of_topic
from tracker_ros.cli.main import main
from tracker_ros.evaluation.records import RunQuality, SequenceRecord, read_record
from tracker_ros.io.bag_reader import open_bag

SQUARE = (10.0, 10.0, 20.0, 20.0)
ELSEWHERE = (80.0, 80.0, 20.0, 20.0)
ABSENT = (np.nan,) * 4


def a_record(truth, boxes, states, **given):
    count = len(truth)
    defaults = {
        "tracker": "t",
        "sequence": "s",
        "images": (),
        "times": np.arange(count) * 0.5,
        "truth": np.array(truth),
        "known": np.ones(count, bool),
        "boxes": np.array(boxes),
        "scores": np.full(count, 0.5),
        "states": states,
        "seconds": np.full(count, 0.01),
    }
    return SequenceRecord(**{**defaults, **given})


def test_losses_and_false_certainty_are_counted():
    truth = [SQUARE] * 4 + [ABSENT] * 2 + [SQUARE] * 4
    boxes = [SQUARE, SQUARE, ELSEWHERE, SQUARE, SQUARE, ABSENT, SQUARE, ABSENT, ABSENT, ABSENT]
    states = ("TRACKING",) * 5 + ("LOST",) + ("TRACKING",) + ("LOST",) * 3
    quality = RunQuality.of(a_record(truth, boxes, states))
    assert quality.time_to_loss == pytest.approx(1.0)
    assert quality.times_to_find_again == pytest.approx((0.5,))
    assert quality.never_found == 1
    assert quality.false_tracking == pytest.approx(2 / 5), "elsewhere, and while it was absent"
    unknown = a_record(truth, boxes, states, known=np.arange(10) != 4)
    assert RunQuality.of(unknown).false_tracking == pytest.approx(1 / 4)
    assert RunQuality.of(a_record([SQUARE] * 3, [SQUARE] * 3, ())) == RunQuality(None, (), 0, None)


def test_a_record_is_the_same_after_writing(tmp_path):
    record = a_record([SQUARE, ABSENT], [SQUARE, SQUARE], ("IDLE", "TRACKING"), attributes=("x",))
    (tmp_path / "r.json").write_text(json.dumps(record.as_data()))
    again = read_record(tmp_path / "r.json")
    assert again.as_data() == record.as_data()
    assert np.isnan(again.truth[1]).all()
    for broken in ("{}", "[]", "no json", json.dumps({**record.as_data(), "scores": [1]})):
        (tmp_path / "r.json").write_text(broken)
        with pytest.raises(ValueError, match=r"r\.json"):
            read_record(tmp_path / "r.json")


def test_truth_is_matched_by_stamp_and_by_number(tmp_path):
    boxes, known = match_truth({100: SQUARE, 200: None}, [90, 205, 500], 20)
    assert known.tolist() == [True, True, False]
    assert tuple(boxes[0]) == SQUARE
    assert np.isnan(boxes[1:]).all()
    (tmp_path / "t.txt").write_text("10,10,20,20\nnan nan nan nan\n\n1;2;3;4\n")
    assert truth_of_file(tmp_path / "t.txt") == {0: SQUARE, 1: None, 2: None, 3: (1, 2, 3, 4)}
    for text in ("", "1,2,3\n", "a,b,c,d\n"):
        (tmp_path / "t.txt").write_text(text)
        with pytest.raises(ValueError, match=r"t\.txt"):
            truth_of_file(tmp_path / "t.txt")


def test_the_truth_in_a_bag_starts_and_scores_the_run(recording, tmp_path, capsys):
    record = tmp_path / "record.json"
    command = ["bag", str(recording), "--image", "/camera/image_raw", "--truth", "/truth"]
    assert main([*command, "--backend", "torch", "--record", str(record), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["evaluation"]
    assert found["frames"] == 13
    assert found["success_auc"] > 0.6
    assert found["losses"] == 0
    kept = read_record(record)
    assert len(kept.times) == 16
    assert kept.known.all()
    assert np.isnan(kept.truth[10:12]).all()
    assert kept.times[1] == pytest.approx(STEP_NS / 1e9, abs=1e-5)
    assert kept.score().auc == pytest.approx(found["success_auc"])
    truth = truth_of_topic(open_bag(recording), "/truth")
    assert len(truth) == 16
    assert sum(one is None for one in truth.values()) == 2
    assert next(iter(truth.values())) == box(0)


def test_truth_that_is_not_there_is_an_error(recording, tmp_path, capsys):
    command = ["bag", str(recording), "--image", "/camera/image_raw"]
    assert main([*command, "--truth", "/thruth"]) == 2
    assert "/truth" in capsys.readouterr().err
    assert main([*command, "--record", str(tmp_path / "r.json")]) == 2
