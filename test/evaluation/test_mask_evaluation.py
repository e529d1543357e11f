# SPDX-License-Identifier: Apache-2.0
"""Evaluating masks from the command line: where they are read from and how they are reported."""

import json

import cv2
import numpy as np
import pytest

from tracker_ros.cli.main import main
from tracker_ros.evaluation.ope import run_objects, run_ope
from tracker_ros.evaluation.sequences import AnnotatedSequence, find_sequences
from tracker_ros.tracker import Tracker, TrackResult


class _Upper(Tracker):
    """Answers the upper half of what it starts on, for ever; remembers what it was given."""

    given: list[str] = []

    def initialize(self, image, box):
        x, y, w, h = (int(v) for v in box)
        mask = np.zeros(image.shape[:2], bool)
        mask[y : y + h, x : x + w] = True
        self.given.append("box")
        self._start(mask)

    def initialize_mask(self, image, mask):
        self.given.append("mask")
        self._start(mask)

    def _start(self, mask):
        rows = np.flatnonzero(mask.any(1))
        self.mask = mask.copy()
        self.mask[rows[len(rows) // 2] :] = False

    def track(self, image):
        return TrackResult((10.0, 10.0, 20.0, 20.0), 0.5, None, (0, 0, 1, 1), mask=self.mask)

    def warm_up(self):
        pass


def still(masks=True) -> AnnotatedSequence:
    """A square of 20 that stays, one row of which the mask leaves out."""
    mask = np.zeros((50, 60), bool)
    mask[11:30, 10:30] = True
    frames = tuple(np.zeros((50, 60, 3), np.uint8) for _ in range(4))
    boxes = np.tile([10.0, 10, 20, 20], (4, 1))
    return AnnotatedSequence("still", frames, boxes, {}, (mask,) * 4 if masks else ())


def test_masks_are_kept_only_where_there_are_true_ones():
    answer = run_ope(_Upper(), still())
    assert len(answer.masks) == 4
    assert np.array_equal(answer.masks[0], still().masks[0])
    assert np.argwhere(answer.masks[1]).max(0).tolist() == [19, 29]
    assert run_ope(_Upper(), still(masks=False)).masks == ()


def test_a_tracker_can_be_started_on_the_first_mask():
    (answer,) = run_objects(_Upper(), [still()])
    assert np.argwhere(answer.masks[1]).min(0).tolist() == [11, 10]


def test_a_frame_that_cannot_be_read_has_the_last_mask(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"broken")
    whole = still()
    for broken in (1, 2):
        frames = list(whole.frames)
        frames[broken] = tmp_path / "broken.png"
        sequence = AnnotatedSequence("still", tuple(frames), whole.boxes, {}, whole.masks)
        (answer,) = run_objects(_Upper(), [sequence])
        assert len(answer.masks) == len(answer.boxes) == 4
        assert np.array_equal(answer.masks[broken], answer.masks[broken - 1])
        assert answer.scores[broken] == 0.0
        assert len(answer.bad_frames) == 1


@pytest.fixture
def folder(tmp_path):
    """A sequence on disk with masks, as `still`."""
    sequence = still()
    for name in ("img", "masks"):
        (tmp_path / "data" / "still" / name).mkdir(parents=True)
    for index in range(4):
        mask = sequence.mask(index).astype(np.uint8)
        place = tmp_path / "data" / "still"
        cv2.imwrite(str(place / "img" / f"{index}.png"), np.dstack([mask * 200] * 3))
        cv2.imwrite(str(place / "masks" / f"{index}.png"), mask * 38)
    (place / "groundtruth.txt").write_text("10,10,20,20\n" * 4)
    return tmp_path / "data"


def test_masks_beside_the_boxes_are_read(folder):
    (sequence,) = find_sequences(folder)
    assert sequence.mask(2).dtype == bool
    assert np.array_equal(sequence.mask(2), still().masks[2])
    (folder / "still" / "masks" / "3.png").unlink()
    with pytest.raises(ValueError, match="4 frames and 3 masks; expected one per frame"):
        find_sequences(folder)


def test_the_built_in_scene_has_masks(monkeypatch):
    monkeypatch.setattr("tracker_ros.evaluation.sequences.SYNTHETIC_FRAMES", 2)
    (sequence,) = find_sequences("synthetic:4")
    assert len(sequence) == 2
    assert sequence.mask(0).shape == (480, 640)
    x, y, w, h = sequence.boxes[0]
    rows, columns = np.nonzero(sequence.mask(0))
    assert x <= columns.min() <= columns.max() < x + w
    assert y <= rows.min() <= rows.max() < y + h


def test_the_command_tables_masks_and_filled_boxes(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(
        "tracker_ros.cli.evaluate._create_model", lambda *_: (_Upper(), "made for this test")
    )
    monkeypatch.setattr(_Upper, "given", [])
    page = tmp_path / "accuracy.md"
    arguments = ["evaluate", str(folder), "--models", "ostrack_tiny", "kcf", "--json"]
    assert main([*arguments, "--markdown", str(page)]) == 0
    assert _Upper.given == ["box", "mask"]
    rows = {row["masks"]: row for row in json.loads(capsys.readouterr().out)["masks"]}
    assert list(rows) == [
        "true box, filled",
        "ostrack_tiny",
        "ostrack_tiny, from the first mask",
        "kcf, box filled",
    ]
    assert rows["true box, filled"]["region"] == 1.0
    assert rows["ostrack_tiny"]["region"] == pytest.approx(9 / 20)  # of 20 rows ten, one too high
    assert rows["ostrack_tiny, from the first mask"]["region"] == pytest.approx(9 / 19)
    assert rows["kcf, box filled"]["scores"][0]["frames"] == 3
    davis = rows["ostrack_tiny"]["davis"]
    assert davis["region"] == pytest.approx(9 / 20)
    assert rows["ostrack_tiny"]["scores"][0]["davis"] == davis
    text = page.read_text()
    assert "## Masks" in text
    assert f"| {rows['ostrack_tiny']['contour']:.3f} |" in text


def test_without_true_masks_there_is_no_such_table(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for file in (folder / "still" / "masks").iterdir():
        file.unlink()
    page = tmp_path / "accuracy.md"
    assert main(["evaluate", str(folder), "--models", "kcf", "--markdown", str(page)]) == 0
    assert "Masks" not in capsys.readouterr().out
    assert "## Masks" not in page.read_text()


def test_options_reach_the_model_and_the_note(folder, tmp_path, monkeypatch, capsys):
    given = {}

    def create(name, **options):
        given.update(options)
        return _Upper()

    monkeypatch.setattr("tracker_ros.registry.create_tracker", create)
    arguments = ["evaluate", str(folder), "--models", "mast_tiny", "--json"]
    assert main([*arguments, "--option", "start_shape=ellipse", "--option", "aligned=false"]) == 0
    assert given["start_shape"] == "ellipse"
    assert given["aligned"] == "false"
    (tracker,) = json.loads(capsys.readouterr().out)["trackers"]
    assert tracker["note"].endswith("…, start_shape=ellipse, aligned=false")
