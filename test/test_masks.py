# SPDX-License-Identifier: Apache-2.0
"""What pictures of masks mean: one object or several, soft edges, colours, void."""

import struct
import zlib

import cv2
import numpy as np
import pytest

from tracker_ros.io.mask_files import read_label_map, write_label_map
from tracker_ros.masks import davis_palette, label_map, object_numbers, one_object

SHAPE = (60, 80)


def two_objects(first=1, second=2, dtype=np.uint8) -> np.ndarray:
    """A rectangle of 20 x 10 and one of 8 x 30, apart from each other."""
    labels = np.zeros(SHAPE, dtype)
    labels[10:20, 10:30] = first
    labels[25:55, 50:58] = second
    return labels


def disc(maximum=255, blur=0.0) -> np.ndarray:
    """A disc, with antialiased or blurred edges."""
    picture = np.zeros(SHAPE, np.uint8)
    cv2.circle(picture, (40, 30), 14, maximum, -1, cv2.LINE_AA)
    return cv2.GaussianBlur(picture, (0, 0), blur) if blur else picture


@pytest.mark.parametrize("value", [1, 38, 255])
def test_one_value_is_one_object(value):
    picture = np.zeros(SHAPE, np.uint8)
    picture[3:9, 4:20] = value
    assert object_numbers(label_map(picture)) == [value]
    assert np.array_equal(one_object(label_map(picture)), picture > 0)
    assert np.array_equal(one_object(label_map(picture > 0)), picture > 0)


@pytest.mark.parametrize("values", [(1, 2), (1, 3), (50, 100), (200, 255), (1, 300)])
def test_areas_of_several_values_are_objects(values):
    labels = label_map(two_objects(*values, dtype=np.uint16))
    assert object_numbers(labels) == list(values)
    assert one_object(labels, values[1]).sum() == 240
    with pytest.raises(ValueError, match=f"2 objects, {values[0]}, {values[1]}; choose"):
        one_object(labels)
    with pytest.raises(ValueError, match="no object 7"):
        one_object(labels, 7)


def test_thin_labels_are_no_soft_edges():
    labels = np.zeros(SHAPE, np.uint8)
    labels[10:12, 5:70] = 1
    labels[30:50, 20:40] = 2
    labels[30:50, 44:46] = 3
    assert object_numbers(label_map(labels)) == [1, 2, 3]


def test_void_beside_labels_is_no_object():
    labels = two_objects()
    labels[8:10, 8:32] = 255
    assert object_numbers(label_map(labels)) == [1, 2]
    assert not label_map(labels)[8, 8]


@pytest.mark.parametrize("blur", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("maximum", [255, 180])
def test_soft_edges_are_cut_at_half(blur, maximum):
    labels = label_map(disc(maximum, blur))
    assert object_numbers(labels) == [1]
    assert labels.sum() == pytest.approx(np.pi * 14.5**2, rel=0.06)


def test_a_soft_mask_of_16_bits_or_floats():
    soft = disc(blur=2.0)
    wanted = label_map(soft)
    assert np.array_equal(label_map(soft.astype(np.uint16) * 257), wanted)
    assert np.array_equal(label_map(soft / 255.0), wanted)


def test_nothing_and_nonsense():
    assert object_numbers(label_map(np.zeros(SHAPE, np.uint8))) == []
    with pytest.raises(ValueError, match="empty"):
        one_object(label_map(np.zeros(SHAPE, np.uint8)))
    with pytest.raises(ValueError, match="negative or not finite"):
        label_map(np.full(SHAPE, np.nan))
    with pytest.raises(ValueError, match=r"shape \(60,\)"):
        label_map(np.zeros(60))


def test_the_palette_is_that_of_the_benchmarks():
    wanted = [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128]]
    assert davis_palette()[:5].tolist() == wanted
    assert davis_palette()[8].tolist() == [64, 0, 0]
    assert len(np.unique(davis_palette(), axis=0)) == 256


def test_colours_count_by_the_palette_or_by_themselves():
    labels = two_objects(1, 3)
    assert np.array_equal(label_map(davis_palette()[labels]), labels)
    colours = np.array([[0, 0, 0], [255, 0, 0], [9, 99, 200]], np.uint8)[two_objects()]
    assert object_numbers(label_map(colours)) == [0x0963C8, 0xFF0000]


def test_a_picture_cut_out_over_black_is_one_object():
    picture = np.random.default_rng(3).integers(1, 255, (*SHAPE, 3)).astype(np.uint8)
    picture[two_objects() != 1] = 0
    assert np.array_equal(one_object(label_map(picture)), two_objects() == 1)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_indexed_png_of_any_depth(bits, tmp_path):
    from PIL import Image

    labels = two_objects(1, 2**bits - 1 if bits < 8 else 7)
    picture = Image.fromarray(labels, mode="P")
    picture.putpalette([9, 9, 9] * 256)
    picture.save(tmp_path / "a.png", bits=bits)
    assert np.array_equal(read_label_map(tmp_path / "a.png"), labels)


def test_label_maps_are_written_as_indexed_png(tmp_path):
    from PIL import Image

    labels = two_objects(1, 200)
    write_label_map(tmp_path / "new" / "a.png", labels)
    with Image.open(tmp_path / "new" / "a.png") as picture:
        assert picture.mode == "P"
        assert np.array_equal(np.array(picture), labels)
        assert picture.getpalette()[:9] == [0, 0, 0, 128, 0, 0, 0, 128, 0]
    assert np.array_equal(read_label_map(tmp_path / "new" / "a.png"), labels)
    with pytest.raises(ValueError, match="values up to 300"):
        write_label_map(tmp_path / "b.png", two_objects(1, 300, np.uint16))


@pytest.mark.parametrize(("width", "height"), [(65_535, 65_535), (2**31 - 1, 1)])
def test_a_picture_that_claims_too_many_pixels_is_named(tmp_path, width, height):
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header
    (tmp_path / "huge.png").write_bytes(data + struct.pack(">I", zlib.crc32(header)))
    with pytest.raises(ValueError, match=r"huge\.png"):
        read_label_map(tmp_path / "huge.png")


@pytest.mark.parametrize("quality", [30, 60, 95])
@pytest.mark.parametrize("levels", [(100, 200), (60, 255), (200, 255)])
def test_labels_in_a_lossy_picture_are_refused_and_soft_edges_are_not(quality, levels, tmp_path):
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    larger = np.kron(two_objects(*levels), np.ones((4, 4), np.uint8))
    cv2.imwrite(str(tmp_path / "labels.jpg"), larger, options)
    with pytest.raises(ValueError, match="PNG"):
        read_label_map(tmp_path / "labels.jpg")
    cv2.imwrite(str(tmp_path / "parts.jpg"), two_objects(255, 255), options)
    assert object_numbers(read_label_map(tmp_path / "parts.jpg")) == [1]
    for blur in (0.0, 2.0, 4.0):
        cv2.imwrite(str(tmp_path / "soft.jpg"), disc(levels[1], blur), options)
        assert object_numbers(read_label_map(tmp_path / "soft.jpg")) == [1]


def test_16_bits_jpeg_and_alpha(tmp_path):
    cv2.imwrite(str(tmp_path / "deep.png"), two_objects(255, 300, np.uint16))
    assert object_numbers(read_label_map(tmp_path / "deep.png")) == [255, 300]
    one = (two_objects() == 1).astype(np.uint8) * 255
    cv2.imwrite(str(tmp_path / "a.jpg"), one, [cv2.IMWRITE_JPEG_QUALITY, 60])
    assert (one_object(read_label_map(tmp_path / "a.jpg")) != (one > 0)).mean() < 0.005
    cv2.imwrite(str(tmp_path / "black.jpg"), one // 255)
    assert object_numbers(read_label_map(tmp_path / "black.jpg")) == []
    alpha = np.dstack([np.full((*SHAPE, 3), 255, np.uint8), one])
    cv2.imwrite(str(tmp_path / "alpha.png"), alpha)
    assert one_object(read_label_map(tmp_path / "alpha.png")).all()
    assert np.array_equal(one_object(read_label_map(tmp_path / "alpha.png", alpha=True)), one > 0)
    with pytest.raises(ValueError, match="no alpha channel"):
        read_label_map(tmp_path / "deep.png", alpha=True)
    with pytest.raises(FileNotFoundError):
        read_label_map(tmp_path / "none.png")
    (tmp_path / "none.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="not a picture"):
        read_label_map(tmp_path / "none.png")
