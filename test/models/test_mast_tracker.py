# SPDX-License-Identifier: Apache-2.0
"""MAST's tracker with a network whose features are the colours of cells; goldens: test/parity."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tracker_ros.geometry import iou, tight_box
from tracker_ros.models.mast.config import PropagationParameters
from tracker_ros.models.mast.matching import cell_labels, spread_cells, strongest
from tracker_ros.models.mast.start_mask import check_labels, mask_of_box
from tracker_ros.models.mast.tracker import MASTTracker
from tracker_ros.tracker import TrackResult, Verdict

HEIGHT, WIDTH = 96, 128
COLOURS = {0: (40, 40, 40), 1: (220, 40, 40), 2: (40, 220, 40)}


class Colours:
    """Stands in for a network: alike are cells of the same colour and place."""

    runtime_info = {"backend": "test"}

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []

    def features(self, image: np.ndarray) -> Tensor:
        self.seen.append(image.shape[:2])
        pixels = torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)[None]
        centred = cell_labels(pixels) / 64 - 2
        rows, columns = centred.shape[2:]
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        near = torch.stack([torch.cos(x * 0.2), torch.sin(x * 0.2), torch.cos(y * 0.2)])[None]
        return torch.cat([centred * 2, near * 2], dim=1)


def scene(left: int, *, height: int = HEIGHT, width: int = WIDTH) -> tuple[np.ndarray, np.ndarray]:
    """A red and a green rectangle on grey: image and labels; the red one begins at `left`."""
    labels = np.zeros((height, width), dtype=np.uint8)
    labels[24:56, max(left, 0) : max(left + 32, 0)] = 1
    labels[64:88, 80:112] = 2
    return np.array([COLOURS[label] for label in range(3)], dtype=np.uint8)[labels], labels


def tracker(**options: object) -> MASTTracker:
    return MASTTracker(Colours(), PropagationParameters(), **options)  # type: ignore[arg-type]


class Waits(TorchDispatchMode):
    """Counts the numbers and places that are read out of tensors: each waits for a GPU."""

    count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        self.count += func.overloadpacket.__name__ in (
            "item",
            "is_nonzero",
            "_local_scalar_dense",
            "nonzero",
        )
        return func(*args, **(kwargs or {}))


def test_only_the_places_of_a_mask_are_read_one_by_one_in_a_frame() -> None:
    mast = tracker()
    image, labels = scene(16)
    mast.initialize_mask(image, labels == 1)
    with Waits() as waits:
        mast.track(image)
    assert waits.count == 1


def test_follows_a_mask_and_answers_its_tight_box() -> None:
    mast = tracker()
    image, labels = scene(16)
    mast.initialize_mask(image, labels == 1)
    for left in range(18, 40, 2):
        image, labels = scene(left)
        result = mast.track(image)
        assert result.mask is not None
        assert result.box == tight_box(result.mask)
        assert iou(result.box, tight_box(labels == 1)) > 0.7
        assert result.verdict is Verdict.NORMAL
        assert 0.5 < result.score <= 1.0
        assert result.score_map is not None and result.score_map.shape == (24, 32)
        assert result.search_region == (0.0, 0.0, WIDTH, HEIGHT)


def test_several_objects_at_once() -> None:
    mast = tracker()
    image, labels = scene(16)
    mast.initialize_mask(image, labels.astype(np.int32))
    for left in (18, 20, 22):
        image, labels = scene(left)
        result = mast.track(image)
    assert mast.labels is not None and mast.labels.dtype == np.uint8
    assert np.array_equal(result.mask, mast.labels == 1)
    for label in (1, 2):
        found, wanted = mast.labels == label, labels == label
        assert (found & wanted).sum() > 0.7 * (found | wanted).sum()


def test_an_object_that_leaves_is_not_found_and_its_box_stays() -> None:
    mast = tracker()
    image, labels = scene(4)
    mast.initialize_mask(image, labels == 1)
    last = mast.track(scene(0)[0]).box
    result = mast.track(scene(-40)[0])
    assert result.verdict is Verdict.NOT_FOUND
    assert result.box == last
    assert result.score == 0.0
    assert result.mask is not None and not result.mask.any()


def test_images_are_reduced_and_masks_are_not() -> None:
    whole, reduced = tracker(), tracker(working_size=48)
    results = []
    for mast in (whole, reduced):
        image, labels = scene(16)
        mast.initialize_mask(image, labels == 1)
        results.append(mast.track(scene(20)[0]))
    assert whole.model.seen == [(96, 128)] * 2  # type: ignore[attr-defined]
    assert reduced.model.seen == [(48, 64)] * 2  # type: ignore[attr-defined]
    one, other = (result.mask for result in results)
    assert one is not None and other is not None
    assert one.shape == other.shape == (HEIGHT, WIDTH)
    assert (one & other).sum() > 0.7 * (one | other).sum()


def test_small_images_are_not_enlarged() -> None:
    mast = tracker(working_size=480)
    mast.initialize(*[scene(16)[0], (16, 24, 32, 32)])
    assert mast.model.seen == [(HEIGHT, WIDTH)]  # type: ignore[attr-defined]


def test_memory_of_an_endless_stream_is_bounded_and_features_are_computed_once() -> None:
    mast = tracker()
    image, labels = scene(16)
    mast.initialize_mask(image, labels == 1)
    for _ in range(40):
        mast.track(image)
        assert mast._memory is not None and len(mast._memory.kept) <= 7
    assert len(mast.model.seen) == 41  # type: ignore[attr-defined]


def test_warm_up_keeps_the_target() -> None:
    with_warm_up, without = tracker(), tracker()
    masks = []
    for mast in (with_warm_up, without):
        image, labels = scene(16)
        mast.initialize_mask(image, labels == 1)
        if mast is with_warm_up:
            mast.warm_up()
        masks.append(mast.track(scene(20)[0]).mask)
    assert np.array_equal(*masks)
    fresh = tracker()
    fresh.warm_up()
    with pytest.raises(RuntimeError, match="before initialize"):
        fresh.track(scene(0)[0])


@pytest.mark.parametrize(("down", "across"), [(2, 2), (1, 2), (0.5, 0.5)])
def test_images_may_change_their_size_on_the_way(down: float, across: float) -> None:
    mast = tracker()
    image, labels = scene(16)
    mast.initialize_mask(image, labels == 1)
    mast.track(image)
    height, width = round(HEIGHT * down), round(WIDTH * across)
    rows = (np.arange(height) / down).astype(int)[:, None]
    columns = (np.arange(width) / across).astype(int)
    for left in (18, 20):
        image, labels = scene(left)
        result = mast.track(image[rows, columns])
        wanted = labels[rows, columns] == 1
        assert result.mask is not None and result.mask.shape == (height, width)
        assert (result.mask & wanted).sum() > 0.75 * (result.mask | wanted).sum()
        assert result.search_region == (0.0, 0.0, width, height)
    assert set(mast.model.seen) == {(HEIGHT, WIDTH)}  # type: ignore[attr-defined]
    # A box that is only remembered means the same place.
    before = mast.track(image).box
    lost = mast.track(np.full((height, width, 3), 40, np.uint8))
    assert lost.verdict is Verdict.NOT_FOUND
    x, y, w, h = before
    assert lost.box == pytest.approx((x * across, y * down, w * across, h * down))


def test_targets_of_several_working_sizes_are_tracked_together() -> None:
    first = tracker(working_size=480)
    image, labels = scene(16)
    first.initialize_mask(image, labels == 1)
    large, large_labels = (
        np.kron(part, np.ones((2, 2, 1)[: part.ndim], np.uint8)) for part in scene(16)
    )
    second = MASTTracker(first.model, PropagationParameters(), working_size=480)
    second.initialize_mask(large, large_labels == 2)
    third = MASTTracker(first.model, PropagationParameters(), working_size=480)
    third.initialize_mask(large, large_labels == 1)
    first.model.seen.clear()  # type: ignore[attr-defined]
    outcomes = first.track_batch([second, third], large)
    assert first.model.seen == [(HEIGHT, WIDTH), (2 * HEIGHT, 2 * WIDTH)]  # type: ignore[attr-defined]
    for outcome, label in zip(outcomes, (1, 2, 1), strict=True):
        assert not isinstance(outcome, Exception)
        assert iou(outcome.box, tight_box(large_labels == label)) > 0.7


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros((9, 9), bool), r"mask has shape \(9, 9\); expected \(96, 128\)"),
        (np.zeros((96, 128), np.float32), "mask has dtype float32; expected bool or integer"),
        (np.zeros((96, 128), bool), "mask has no pixel of label 1"),
        (np.full((96, 128), 2), "mask has no pixel of label 1"),
        (np.full((96, 128), -1), "labels from -1 to -1"),
        (np.full((96, 128), 256), "labels from 256 to 256"),
    ],
)
def test_masks_are_checked(mask: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_labels(mask, HEIGHT, WIDTH)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start_shape": "circle"}, "start_shape is 'circle'; expected one of ellipse"),
        ({"working_size": 3}, "working_size is 3; expected 16 to 2048 pixels"),
        ({"working_size": 100_000}, "working_size is 100000; expected 16 to 2048 pixels"),
        ({"aspect": 1000.0}, "aspect is 1000.0; expected the width of images over their height"),
        ({"aspect": float("nan")}, "aspect is nan"),
    ],
)
def test_options_are_checked(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tracker(**options)
    with pytest.raises(ValueError, match="reference_mode is 'some'; expected one of all"):
        PropagationParameters(reference_mode="some")
    with pytest.raises(ValueError, match="behaviour is 'odd'; expected one of fixed"):
        PropagationParameters(behaviour="odd")


def test_shapes_that_stand_for_a_box() -> None:
    image, labels = scene(16)
    box = (16.0, 24.0, 32.0, 32.0)
    rectangle = mask_of_box(image, box, "rectangle")
    assert np.array_equal(rectangle, labels == 1)
    ellipse = mask_of_box(image, box, "ellipse")
    assert tight_box(ellipse) == box
    assert ellipse.sum() == pytest.approx(np.pi / 4 * rectangle.sum(), rel=0.02)
    assert not (ellipse & ~rectangle).any()
    noisy = image + np.random.default_rng(0).integers(0, 8, image.shape, dtype=np.uint8)
    # A loose box: the colours say which part of it is the object.
    cut = mask_of_box(noisy, (8.0, 16.0, 48.0, 48.0), "grabcut")
    assert (cut & (labels == 1)).sum() > 0.9 * (cut | (labels == 1)).sum()


@pytest.mark.parametrize("shape", ["ellipse", "rectangle", "grabcut"])
@pytest.mark.parametrize(
    "box", [(50.3, 50.2, 1.0, 1.0), (-5.0, -5.0, 6.0, 6.0), (0, 0, 128, 96), (127.4, 95.4, 9, 9)]
)
def test_no_box_gives_an_empty_mask(shape: str, box: tuple[float, float, float, float]) -> None:
    image = np.full((HEIGHT, WIDTH, 3), 77, dtype=np.uint8)
    assert mask_of_box(image, box, shape).any()


def test_the_strongest_label_is_the_first_of_the_highest() -> None:
    soft = torch.randint(0, 4, (5, 30, 40), generator=torch.manual_seed(0)).float()
    labels = strongest(soft)
    assert labels.dtype == torch.uint8
    assert torch.equal(labels.long(), (soft == soft.amax(0)).int().argmax(0))
    assert labels.unique().tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("size", [(16, 20), (17, 23)])
def test_cells_are_written_back_where_they_were_read(size: tuple[int, int]) -> None:
    soft = torch.rand(1, 2, -(-size[0] // 4), -(-size[1] // 4), generator=torch.manual_seed(0))
    pixels = spread_cells(soft, size, size, aligned=True)
    assert pixels.shape == (1, 2, *size)
    torch.testing.assert_close(cell_labels(pixels), soft)
    assert not torch.allclose(cell_labels(spread_cells(soft, size, size, aligned=False)), soft)


def test_cells_of_a_reduced_image_land_at_the_same_places() -> None:
    ramp = torch.arange(32.0).repeat(24, 1)[None, None]
    pixels = spread_cells(ramp, (96, 128), (192, 256), aligned=True)[0, 0]
    # Pixel X of the large image lies at (X + 1/2) / 2 - 1/2 of the reduced one.
    wanted = ((torch.arange(256.0) + 0.5) / 2 - 0.5) / 4
    torch.testing.assert_close(pixels[5], wanted.clamp(0, 31), rtol=0, atol=1e-5)


def test_a_target_without_a_cell_is_refused_and_the_earlier_one_kept() -> None:
    follower = tracker(working_size=48, start_shape="rectangle")
    image = np.zeros((480, 640, 3), np.uint8)
    follower.initialize(image, (100.0, 100.0, 200.0, 200.0))
    with pytest.raises(ValueError, match="object 1 is too small to be followed .* working_size"):
        follower.initialize(image, (301.0, 301.0, 6.0, 6.0))
    assert follower.track(image).mask is not None


def test_a_single_value_is_one_object() -> None:
    _, labels = scene(16)
    assert check_labels((labels == 1).astype(np.uint8) * 255, HEIGHT, WIDTH).max() == 1


def test_joined_targets_share_one_map() -> None:
    image, labels = scene(16)
    alone = tracker()
    alone.initialize_mask(image, labels.astype(np.int32))
    first = tracker()
    second = cast(MASTTracker, first.fork())
    first.initialize_mask(image, labels == 1)
    second.initialize_mask(image, labels == 2)
    first.join([second])
    for left in (18, 20):
        image, _ = scene(left)
        outcomes = first.track_batch([second], image)
        alone.track(image)
        assert alone.labels is not None
        for outcome, label in zip(outcomes, (1, 2), strict=True):
            assert isinstance(outcome, TrackResult)
            assert np.array_equal(outcome.mask, alone.labels == label)
            assert outcome.box == tight_box(alone.labels == label)
    second.initialize_mask(image, labels == 2)
    assert isinstance(first.track_batch([second], image)[1], TrackResult)
    with pytest.raises(RuntimeError, match="before every tracker was started"):
        first.join([second])
