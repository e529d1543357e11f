# SPDX-License-Identifier: Apache-2.0
"""Building a bank from picture files."""

import cv2
import numpy as np
import pytest

from tools.picture_bank import build_bank, middle_cutout, read_picture
from tracker_ros.synthetic.textures import procedural_silhouette, procedural_texture


@pytest.fixture
def folder(tmp_path):
    """A photograph-like picture with things in it, a stamp, and files that are of no use."""
    rng = np.random.default_rng(0)
    picture = procedural_texture(rng, 400) // 3 + 80
    for x in (60, 200, 310):
        cv2.circle(picture, (x, 200), 28, tuple(map(int, rng.integers(0, 255, 3))), -1)
    cv2.imwrite(str(tmp_path / "photo.png"), picture)
    alpha = procedural_silhouette(rng, 128).astype(np.uint8) * 255
    stamp = np.dstack([procedural_texture(rng, 128), alpha])
    cv2.imwrite(str(tmp_path / "stamp.png"), stamp)
    cv2.imwrite(str(tmp_path / "flat.png"), np.full((200, 200, 3), 90, np.uint8))
    (tmp_path / "broken.jpg").write_bytes(b"not a picture")
    return tmp_path


def test_a_bank_has_tiles_segments_and_cutouts(folder):
    bank = build_bank(folder, seed=1, tiles_per_picture=6)
    assert 1 <= len(bank.tiles) <= 6
    assert bank.labels.max() >= 1
    assert len(bank.cutouts) >= 1
    assert bank.cutouts[..., 3].max() == 255
    assert (bank.cutouts[:, :4, :, 3] == 0).all()  # the margin is transparent


def test_a_thing_in_the_middle_is_cut_out():
    picture = procedural_texture(np.random.default_rng(0), 400) // 4
    cv2.ellipse(picture, (200, 200), (100, 50), 0, 0, 360, (250, 230, 40), -1)
    cover = middle_cutout(picture)[..., 3] > 127
    rows, columns = np.where(cover.any(1))[0], np.where(cover.any(0))[0]
    assert len(columns) / len(rows) == pytest.approx(2, rel=0.1)
    assert cover[rows[0] : rows[-1] + 1].mean() == pytest.approx(np.pi / 4, abs=0.15)
    assert middle_cutout(np.roll(picture, 200, 1)) is None, "it is not in the middle"


def test_useless_files_are_passed_over(folder):
    assert read_picture(folder / "flat.png") is None
    assert read_picture(folder / "broken.jpg") is None
    image, alpha = read_picture(folder / "stamp.png")
    assert image.shape == (128, 128, 3)
    assert 0 < alpha.mean() < 1


def test_no_pictures_is_an_error_that_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="fetch_pictures"):
        build_bank(tmp_path, seed=0)
