# SPDX-License-Identifier: Apache-2.0
"""Reading the layouts of the usual benchmarks."""

import cv2
import numpy as np
import pytest

from tracker_ros.evaluation.annotations import RunLengthMask, read_annotations
from tracker_ros.evaluation.sequences import find_sequences
from tracker_ros.io.mask_files import write_label_map


def _write_frames(folder, count=3, suffix=".png", digits=6):
    folder.mkdir(parents=True)
    for index in range(1, count + 1):
        image = np.full((20, 30, 3), index % 256, np.uint8)
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
    boxes = read_annotations(file).boxes
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
    with pytest.raises(ValueError, match=r"\.txt:1: '1,2,3' is no annotation: 3 numbers"):
        find_sequences(tmp_path)
    _write_boxes(truth, "1,2,3,x\n" * 3)
    with pytest.raises(ValueError, match=r"groundtruth\.txt:1: '1,2,3,x'"):
        find_sequences(tmp_path)
    _write_boxes(truth, "nan,nan,nan,nan\n1,2,3,4\n1,2,3,4\n")
    with pytest.raises(ValueError, match="absent in the first frame"):
        find_sequences(tmp_path)


BOX = "1,2,3,4\n"


@pytest.mark.parametrize(
    ("line", "box"),
    [
        ("0", None),
        ("nan", None),
        ("NaN,NaN,NaN,NaN", None),
        ("", None),
        ("nan,nan,nan,nan,nan,nan,nan,nan", None),
        ("1,1,5,1,3,7", [1, 1, 4, 6]),
        ("1 1 5 1 6 4 3 7 0 4", [0, 1, 6, 6]),
        ("1;2;3;4;", [1, 2, 3, 4]),
        ("m2,3,4,2,1,2,1,4", [2, 3, 4, 2]),
        ("m2,3,4,2,8", None),
    ],
)
def test_lines_of_every_benchmark(line, box, tmp_path):
    (tmp_path / "a.txt").write_text(f"{BOX}{line}\n{BOX}")
    boxes = read_annotations(tmp_path / "a.txt").boxes
    assert boxes[[0, 2]].tolist() == [[1, 2, 3, 4]] * 2
    assert np.isnan(boxes[1]).all() if box is None else boxes[1].tolist() == box


@pytest.mark.parametrize(
    "line", ["1,2,3", "1,2,3,4,5", "m1,2,3,4,99", "m1,2", "m1,2,3,4,-1,2", "x"]
)
def test_what_is_no_annotation_is_named(line, tmp_path):
    (tmp_path / "a.txt").write_text(f"{BOX}{line}\n")
    with pytest.raises(ValueError, match=r"a\.txt:2: .* is no annotation"):
        read_annotations(tmp_path / "a.txt")


def test_masks_are_read_and_written_as_run_lengths(tmp_path):
    masks = np.random.default_rng(0).random((4, 9, 12)) < 0.4
    masks[1] = False
    masks[2] = True
    (tmp_path / "a.txt").write_text("".join(f"{RunLengthMask.of(m).line()}\n" for m in masks))
    found = read_annotations(tmp_path / "a.txt").masks
    assert found[1] is None
    for mask, read in zip(masks, found, strict=True):
        assert read is None or np.array_equal(read.on_image(9, 12), mask)
    shifted = RunLengthMask(-1, 7, 3, 4, (0, 12))
    assert np.argwhere(shifted.on_image(9, 12)).tolist() == [[7, 0], [7, 1], [8, 0], [8, 1]]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_marks_and_line_ends_of_windows(encoding, tmp_path):
    _write_frames(tmp_path / "a" / "img")
    text = "1,2,3,4\r\n2,3,4,5\r\n3,4,5,6\r\n"
    (tmp_path / "a" / "groundtruth.txt").write_bytes(text.encode(encoding))
    (tmp_path / "a" / "absence.label").write_bytes(b"\xef\xbb\xbf0\r\n1\r\n0\r\n")
    (sequence,) = find_sequences(tmp_path)
    assert sequence.boxes[[0, 2]].tolist() == [[1, 2, 3, 4], [3, 4, 5, 6]]
    assert np.isnan(sequence.boxes[1]).all()


def test_empty_lines_at_the_end_are_frames_only_where_there_are_frames(tmp_path):
    _write_frames(tmp_path / "a")
    _write_boxes(tmp_path / "a" / "groundtruth.txt", BOX + "\n\n\n\n")
    (sequence,) = find_sequences(tmp_path)
    assert np.isnan(sequence.boxes).all(1).tolist() == [False, True, True]
    _write_boxes(tmp_path / "a" / "groundtruth.txt", BOX * 3 + "\n\n")
    assert len(find_sequences(tmp_path)[0]) == 3


def test_files_that_other_systems_leave_behind_are_passed_over(tmp_path):
    _write_frames(tmp_path / "a" / "img")
    _write_boxes(tmp_path / "a" / "groundtruth.txt")
    for name in ("._000001.png", ".DS_Store", "Thumbs.db"):
        (tmp_path / "a" / "img" / name).write_bytes(b"\0\5\26\7")
    (tmp_path / "__MACOSX" / "a").mkdir(parents=True)
    (tmp_path / "__MACOSX" / "a" / "groundtruth.txt").write_bytes(b"\0\5\26\7")
    (sequence,) = find_sequences(tmp_path)
    assert len(sequence) == 3


def test_a_part_of_the_images_may_be_annotated(tmp_path):
    _write_frames(tmp_path / "David" / "img", 305, digits=4)
    _write_boxes(tmp_path / "David" / "groundtruth_rect.txt", "1\t2\t3\t4\n" * 4)
    _write_frames(tmp_path / "Freeman4" / "img", 6, digits=4)
    _write_boxes(tmp_path / "Freeman4" / "groundtruth_rect.txt", BOX * 5)
    david, freeman = find_sequences(tmp_path)
    assert [file.stem for file in david.frames] == ["0300", "0301", "0302", "0303"]
    assert [file.stem for file in freeman.frames] == [f"000{i}" for i in range(1, 6)]


def test_second_targets_are_sequences_of_their_own(tmp_path):
    for name, files in {"Jogging": ("1", "2"), "Human4": ("1", "2")}.items():
        _write_frames(tmp_path / name / "img")
        for file in files:
            empty = (name, file) == ("Human4", "1")
            text = "" if empty else f"{file},2,3,4\n" * 3
            (tmp_path / name / f"groundtruth_rect.{file}.txt").write_text(text)
    _write_frames(tmp_path / "vots" / "color")
    for target in ("cup", "dog"):
        (tmp_path / "vots" / f"groundtruth_{target}.txt").write_text("m1,2,3,1,0,3\n" * 3)
    found = find_sequences(tmp_path)
    assert [sequence.name for sequence in found] == [
        "Human4", "Jogging.1", "Jogging.2", "vots.cup", "vots.dog",
    ]  # fmt: skip
    assert [sequence.boxes[0, 0] for sequence in found] == [2, 1, 2, 1, 1]
    assert found[3].mask(0).sum() == 3


@pytest.mark.parametrize(
    ("frames", "truth"),
    [
        ("airplane/airplane-1/img", "airplane/airplane-1/groundtruth.txt"),
        ("val/airplane-1", "val/airplane-1/groundtruth.txt"),
        ("TRAIN_0/frames/airplane-1", "TRAIN_0/anno/airplane-1.txt"),
        ("data_seq/UAV123/airplane-1", "anno/UAV123/airplane-1.txt"),
    ],
    ids=["lasot", "got10k", "trackingnet", "uav123"],
)
def test_roots_of_data_sets(tmp_path, frames, truth):
    _write_frames(tmp_path / frames)
    _write_boxes(tmp_path / truth)
    (tmp_path / "list.txt").write_text("airplane-1\n")
    (sequence,) = find_sequences(tmp_path)
    assert sequence.name == "airplane-1"
    assert len(sequence) == 3


def test_uav123_cuts_videos_into_sequences(tmp_path):
    _write_frames(tmp_path / "data_seq" / "UAV123" / "person8", 1080)
    for name in ("person8_1", "person8_2"):
        _write_boxes(tmp_path / "anno" / "UAV123" / f"{name}.txt", BOX * 5)
    first, second = find_sequences(tmp_path)
    assert [sequence.frames[0].stem for sequence in (first, second)] == ["000001", "001075"]
    assert len(second) == 5


@pytest.fixture
def davis(tmp_path):
    """DAVIS 2017 with two objects in a video, and one in another."""
    for name, labels in {"dogs": (1, 2), "bear": (255,)}.items():
        _write_frames(tmp_path / "JPEGImages" / "480p" / name)
        for index in range(1, 4):
            picture = np.zeros((20, 30), np.uint8)
            for place, label in enumerate(labels):
                picture[2 + index : 6 + index, 2 + 12 * place : 10 + 12 * place] = label
            write_label_map(tmp_path / "Annotations" / "480p" / name / f"{index:05d}.png", picture)
    for year, line in {
        "2017": "dogs",
        "2016": "/JPEGImages/480p/bear/00001.jpg /Annotations/480p/bear/00001.png",
    }.items():
        (tmp_path / "ImageSets" / year).mkdir(parents=True)
        (tmp_path / "ImageSets" / year / "val.txt").write_text(f"{line}\n")
    return tmp_path


def test_objects_of_davis_are_sequences(davis):
    bear, first, second = find_sequences(davis)
    assert [s.name for s in (bear, first, second)] == ["bear", "dogs.1", "dogs.2"]
    assert {first.video, second.video} == {"dogs"}
    assert second.boxes.tolist() == [[14, 3, 8, 4], [14, 4, 8, 4], [14, 5, 8, 4]]
    assert np.argwhere(second.mask(2)).min(0).tolist() == [5, 14]
    assert bear.mask(0).sum() == 32
    assert [s.name for s in find_sequences(davis / "ImageSets" / "2017" / "val.txt")] == [
        "dogs.1",
        "dogs.2",
    ]
    assert [s.name for s in find_sequences(davis / "ImageSets" / "2016" / "val.txt")] == ["bear"]


def test_one_bad_sequence_is_reported_and_left_out(tmp_path):
    for name in ("a", "b", "c"):
        _write_frames(tmp_path / name / "img")
        _write_boxes(tmp_path / name / "groundtruth.txt", BOX * (2 if name == "b" else 3))
    told = []
    found = find_sequences(tmp_path, complain=told.append)
    assert [sequence.name for sequence in found] == ["a", "c"]
    assert len(told) == 1
    assert told[0].startswith("b: ")
    assert "3 frames and 2 boxes" in told[0]


def test_cover_and_full_occlusion_mark_absent_frames(tmp_path):
    _write_frames(tmp_path / "a")
    _write_boxes(tmp_path / "a" / "groundtruth.txt")
    (tmp_path / "a" / "cover.label").write_text("8\n0\n3\n")
    (tmp_path / "a" / "full_occlusion.txt").write_text("0,0,1")
    (sequence,) = find_sequences(tmp_path)
    assert np.isnan(sequence.boxes).all(1).tolist() == [False, True, True]


def test_of_several_objects_the_one_in_the_box_counts(tmp_path):
    _write_frames(tmp_path / "a" / "img")
    _write_boxes(tmp_path / "a" / "groundtruth.txt", "12,4,6,8\n" * 3)
    labels = np.zeros((20, 30), np.uint8)
    labels[4:12, 2:8], labels[4:12, 12:18] = 1, 2
    for index in range(3):
        write_label_map(tmp_path / "a" / "masks" / f"{index}.png", labels)
    (sequence,) = find_sequences(tmp_path)
    assert np.array_equal(sequence.mask(1), labels == 2)


def test_attributes_of_vot_and_uav123(tmp_path):
    _write_frames(tmp_path / "vot" / "a" / "color")
    _write_boxes(tmp_path / "vot" / "a" / "groundtruth.txt")
    (tmp_path / "vot" / "a" / "camera_motion.tag").write_text("0\n1\n0\n")
    (tmp_path / "vot" / "a" / "occlusion.tag").write_text("0\n0\n0\n")
    (tmp_path / "vot" / "a" / "size_change.tag").write_text("not a flag\n")
    (sequence,) = find_sequences(tmp_path / "vot")
    assert sequence.about["attributes"] == ["camera motion"]
    uav = tmp_path / "uav"
    _write_frames(uav / "data_seq" / "UAV123" / "b")
    _write_boxes(uav / "anno" / "UAV123" / "b.txt")
    (uav / "anno" / "UAV123" / "att").mkdir()
    (uav / "anno" / "UAV123" / "att" / "b.txt").write_text("1,0,0,1,0,0,0,0,0,0,0,1")
    (sequence,) = find_sequences(uav)
    assert sequence.about["attributes"] == ["scale variation", "fast motion", "similar object"]
