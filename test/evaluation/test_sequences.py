# SPDX-License-Identifier: Apache-2.0
"""Reading the layouts of the usual benchmarks."""

import cv2
import numpy as np
import pytest

from tracker_ros.evaluation.sequences import find_sequences, read_boxes


def _write_frames(folder, count=3, suffix=".png", digits=6):
    folder.mkdir(parents=True)
    for index in range(1, count + 1):
        image = np.full((20, 30, 3), index, np.uint8)
        cv2.imwrite(str(folder / f"{index:0{digits}d}{suffix}"), image)


def _write_boxes(path, text="1,2,3,4\n2,3,4,5\n3,4,5,6\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("frames", "truth"),
    [
        ("a/img", "a/groundtruth.txt"),
        ("a/img", "a/groundtruth_rect.txt"),
        ("a/color", "a/groundtruth.txt"),
        ("a", "a/groundtruth.txt"),
        ("frames/a", "anno/a.txt"),
    ],
    ids=["plain", "otb", "vot", "got10k", "trackingnet"],
)
def test_layouts(tmp_path, frames, truth):
    _write_frames(tmp_path / frames)
    _write_boxes(tmp_path / truth)
    (sequence,) = find_sequences(tmp_path)
    assert sequence.name == "a"
    assert sequence.boxes.tolist() == [[1, 2, 3, 4], [2, 3, 4, 5], [3, 4, 5, 6]]
    assert [int(image[0, 0, 0]) for image in sequence.images()] == [1, 2, 3]


def test_numbers_without_padding_are_in_natural_order(tmp_path):
    _write_frames(tmp_path / "a" / "img", count=11, digits=1)
    _write_boxes(tmp_path / "a" / "groundtruth.txt", "1 2 3 4\n" * 11)
    (sequence,) = find_sequences(tmp_path / "a")
    assert [int(image[0, 0, 0]) for image in sequence.images()] == list(range(1, 12))


def test_separators_absence_and_corners(tmp_path):
    file = tmp_path / "boxes.txt"
    file.write_text("1,2,3,4\n1\t2\t3\t4\n1 2 3 4\nNaN,NaN,NaN,NaN\n0,0,0,0\n1,2,5,1,6,9,2,10\n")
    boxes = read_boxes(file)
    assert boxes[:3].tolist() == [[1, 2, 3, 4]] * 3
    assert np.isnan(boxes[3:5]).all()
    assert boxes[5].tolist() == [1, 1, 5, 9]


def test_absent_frames_are_marked_from_label_files(tmp_path):
    _write_frames(tmp_path / "a")
    _write_boxes(tmp_path / "a" / "groundtruth.txt")
    (tmp_path / "a" / "absence.label").write_text("0\n1\n0\n")
    (sequence,) = find_sequences(tmp_path)
    assert np.isnan(sequence.boxes).all(1).tolist() == [False, True, False]
    (tmp_path / "a" / "out_of_view.txt").write_text("0,0,1")
    (sequence,) = find_sequences(tmp_path)
    assert np.isnan(sequence.boxes).all(1).tolist() == [False, True, True]


def test_one_based_coordinates_are_shifted(tmp_path):
    _write_frames(tmp_path / "a" / "img")
    _write_boxes(tmp_path / "a" / "groundtruth.txt")
    (sequence,) = find_sequences(tmp_path, one_based=True)
    assert sequence.boxes[0].tolist() == [0, 1, 3, 4]


def test_list_file_names_folders_relative_to_itself(tmp_path):
    for name in ("a", "b", "c"):
        _write_frames(tmp_path / "data" / name / "img")
        _write_boxes(tmp_path / "data" / name / "groundtruth.txt")
    (tmp_path / "list.txt").write_text("data/b\n# data/a\n\ndata/c  # last\n")
    assert [found.name for found in find_sequences(tmp_path / "list.txt")] == ["b", "c"]
    assert [found.name for found in find_sequences(tmp_path / "data")] == ["a", "b", "c"]


def test_errors_name_file_and_remedy(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        find_sequences(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no annotated sequence"):
        find_sequences(tmp_path)
    _write_frames(tmp_path / "a" / "img")
    truth = tmp_path / "a" / "groundtruth.txt"
    _write_boxes(truth, "1,2,3,4\n1,2,3,4\n")
    with pytest.raises(ValueError, match="3 frames and 2 boxes"):
        find_sequences(tmp_path)
    _write_boxes(truth, "1,2,3,4\n")
    with pytest.raises(ValueError, match="test split"):
        find_sequences(tmp_path)
    _write_boxes(truth, "1,2,3\n" * 3)
    with pytest.raises(ValueError, match=r"groundtruth\.txt:1: 3 numbers"):
        find_sequences(tmp_path)
    _write_boxes(truth, "1,2,3,x\n" * 3)
    with pytest.raises(ValueError, match=r"groundtruth\.txt:1: '1,2,3,x'"):
        find_sequences(tmp_path)
    _write_boxes(truth, "nan,nan,nan,nan\n1,2,3,4\n1,2,3,4\n")
    with pytest.raises(ValueError, match="absent in the first frame"):
        find_sequences(tmp_path)
