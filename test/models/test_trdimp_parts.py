# SPDX-License-Identifier: Apache-2.0
"""What surrounds TrDiMP's network: patches, views of the first image, samples, boxes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from tracker_ros.crops import normalize_pixels, normalize_tensor
from tracker_ros.models.trdimp.config import BASE, Augmentation
from tracker_ros.models.trdimp.localisation import (
    ascend,
    choose_box,
    localise,
    remember_shape,
    start_boxes,
)
from tracker_ros.models.trdimp.patches import (
    Border,
    Placement,
    SeededDraws,
    Span,
    Window,
    augment,
    box_to_target,
    choose_window,
    cut,
    drop_channels,
    target_to_box,
)
from tracker_ros.models.trdimp.samples import SampleMemory, SampleWeights
from tracker_ros.tracker import Verdict

CPU = torch.device("cpu")
SMALL = replace(BASE, image_sample_size=32)


def test_a_span_repeats_the_edges() -> None:
    rng = np.random.default_rng(0)
    for _ in range(3000):
        length, step = int(rng.integers(2, 30)), int(rng.integers(1, 9))
        span = Span(
            int(rng.integers(-40, 40)), int(rng.integers(2, 30)), step, int(rng.integers(step))
        )
        pixels, repeats = span.within(length)
        found = np.pad(np.arange(length)[pixels], repeats, mode="edge")
        offset = min(span.offset, length - 1)
        last = len(range(offset, length, step)) - 1
        steps = np.clip(np.arange(span.start, span.start + span.extent), 0, last)
        np.testing.assert_array_equal(found, steps * step + offset)


class Operators(TorchDispatchMode):
    """Lists the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_constants_are_not_sent_to_the_device_in_every_frame() -> None:
    """A GPU would be waited for; `lift_fresh` makes a tensor of numbers."""
    patches, boxes = torch.full((2, 3, 4, 4), 255.0), torch.rand(5, 4)
    first = normalize_tensor(patches / 255.0)
    np.testing.assert_allclose(first[1, :, 0, 0], [2.2489, 2.4286, 2.64], rtol=1e-4)
    with Operators() as operators:
        assert torch.equal(normalize_tensor(patches / 255.0), first)
        ascend(lambda boxes, step: (boxes + step, boxes[:, 0]), boxes, BASE)
    assert "div" in operators.names
    assert "add" in operators.names
    assert "lift_fresh" not in operators.names


def test_lengths_of_steps_are_those_of_place_and_size() -> None:
    options = replace(BASE, box_refinement_step_length=(2.0, 0.5), box_refinement_iter=2)
    options = replace(options, box_refinement_step_decay=0.5)
    boxes, _ = ascend(lambda boxes, step: (boxes + step, boxes[:, 0]), torch.zeros(3, 4), options)
    assert boxes.tolist() == [[3.0, 3.0, 0.75, 0.75]] * 3


@pytest.mark.parametrize("border", Border)
@pytest.mark.parametrize("centre", [(-500.0, 20.0), (20.0, 900.0), (10.0, 10.0)])
@pytest.mark.parametrize("side", [0.1, 30.0, 5000.0])
def test_any_window_gives_a_patch(
    border: Border, centre: tuple[float, float], side: float
) -> None:
    image = np.full((37, 53, 3), 77, dtype=np.uint8)
    size = np.full(2, side, dtype=np.float32)
    window = choose_window(np.asarray(centre, np.float32), size, 32, image.shape, border, 1.5)
    patch = cut(image, window, 32)
    assert patch.shape == (1, 3, 32, 32)
    # Rows and columns are cut one step apart: there is never much more than what is shown.
    assert window.rows.extent <= 3 * 32
    np.testing.assert_allclose(patch, 77.0, rtol=1e-6)


@pytest.mark.parametrize("size", [(40, 61), (64, 64), (301, 150)])
def test_a_patch_is_resized_as_torch_does(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    window = Window(Span(0, size[0], 1, 0), Span(0, size[1], 1, 0))
    wanted = F.interpolate(
        torch.from_numpy(image).permute(2, 0, 1)[None].float(), (64, 64), mode="bilinear"
    )
    np.testing.assert_allclose(cut(image, window, 64), wanted.numpy(), rtol=0, atol=1e-4)
    pixels = normalize_pixels(wanted.numpy())
    np.testing.assert_array_equal(pixels, normalize_tensor(wanted / 255.0).numpy())


def test_boxes_go_to_the_patch_and_back() -> None:
    position, size = box_to_target((12.5, 30.25, 41.0, 22.0))
    np.testing.assert_array_equal(position, [30.25 + 10.5, 12.5 + 20.0])
    assert target_to_box(position, size) == (12.5, 30.25, 41.0, 22.0)
    patch = Placement(np.array([40.0, 30.0], dtype=np.float32), np.float32(0.5), 100)
    back, extent = patch.target_of(patch.box_in_patch(position, size))
    np.testing.assert_array_equal(extent, size)
    # Half a pixel of the patch is gained on the way, as officially.
    np.testing.assert_allclose(back - position, 0.5 * 0.5, atol=1e-5)


def test_the_region_of_a_map_is_in_box_coordinates() -> None:
    patch = Placement(np.array([49.5, 99.5], dtype=np.float32), np.float32(2.0), 32)
    assert patch.region(3, 16) == (100.0 - 48.0, 50.0 - 48.0, 96.0, 96.0)


def dot(side: int, y: int, x: int) -> np.ndarray:
    """(3, side, side), black but for 2 x 2 pixels, `(y, x)` from the middle."""
    image = np.zeros((3, side, side), np.float32)
    top, left = side // 2 - 1 + y, side // 2 - 1 + x
    image[:, top : top + 2, left : left + 2] = 255.0
    return image


def test_views_of_a_dot() -> None:
    options = replace(
        SMALL,
        augmentation=Augmentation(relative_shift=((0.5, -0.25),), blur=(), rotate=(90,)),
    )
    views = augment(dot(64, 2, 4)[None], options, SeededDraws(3))
    plain, moved, mirrored, turned = views.patches
    # Shifts move what is seen down and right; a positive angle turns right to up.
    (x, y), (u, v) = views.shifts[2:].astype(int)
    np.testing.assert_array_equal(views.shifts[:2], [[0, 0], [-4, 8]])
    np.testing.assert_array_equal(plain, dot(32, 2, 4))
    np.testing.assert_array_equal(moved, dot(32, 10, 0))
    np.testing.assert_array_equal(mirrored, dot(32, y + 2, x - 4))
    np.testing.assert_allclose(turned, dot(32, v - 4, u + 2), rtol=1.3e-6, atol=1e-5)


def test_a_blurred_dot() -> None:
    options = Augmentation(relative_shift=(), flip=False, blur=((2.0, 1.0),), rotate=())
    views = augment(dot(64, 0, 0)[None], replace(SMALL, augmentation=options), SeededDraws(3))
    x, y = views.shifts[1].astype(int)
    blurred = np.roll(views.patches[1, 0], (-y, -x), (0, 1)) / 255
    assert float(blurred.sum()) == pytest.approx(4.0, rel=1e-5)
    rows, columns = (blurred.sum(axis).nonzero()[0] for axis in (1, 0))
    # Two deviations wide, beyond the two pixels of the dot itself.
    assert rows.tolist() == list(range(15 - 4, 17 + 4))
    assert columns.tolist() == list(range(15 - 2, 17 + 2))
    steps = np.arange(-4, 5)
    kernel = np.exp(-(steps**2) / 8) / np.exp(-(steps**2) / 8).sum()
    along = np.convolve(kernel, [2.0, 2.0])
    np.testing.assert_allclose(blurred.sum(1)[11:21], along, rtol=1e-5)


def test_a_shift_beyond_the_wide_patch_is_refused() -> None:
    options = replace(SMALL, augmentation=Augmentation(relative_shift=((1.5, 0.0),)))
    with pytest.raises(ValueError, match="widen augmentation_expansion_factor"):
        augment(np.zeros((1, 3, 64, 64), np.float32), options, SeededDraws(0))


def test_dropout_leaves_whole_channels_out() -> None:
    features = torch.full((3, 200, 2, 2), 4.0)
    found, copies = drop_channels(features, SMALL, SeededDraws(1))
    assert copies == 2
    assert torch.equal(found[:3], features)
    factors = found[3:] / features[0]
    assert torch.equal(factors, factors[:, :, :1, :1].expand_as(factors))
    assert factors.unique().tolist() == [0.0, 1.25]
    assert 0.1 < float((factors == 0).float().mean()) < 0.3
    none = replace(SMALL, augmentation=Augmentation(dropout_copies=0))
    assert drop_channels(features, none, SeededDraws(1)) == (features, 0)


def test_draws_repeat_by_seed() -> None:
    first, second, other = SeededDraws(4), SeededDraws(4), SeededDraws(5)
    for draws in (first, second):
        draws.shift()
    np.testing.assert_array_equal(first.boxes(9), second.boxes(9))
    assert first.boxes(9).dtype == np.float32
    assert not np.array_equal(second.boxes(9), other.boxes(9))


def test_memory_takes_room_as_samples_come() -> None:
    memory = SampleMemory(torch.zeros(5, 4, 3, 3), torch.zeros(5, 4), 250, 0.0)
    assert memory.features.is_contiguous(memory_format=torch.channels_last)
    held = 0
    for number in range(1, 30):
        memory.add(torch.full((1, 4, 3, 3), float(number)), torch.full((4,), 1.0 * number), 0.01)
        assert memory.features.is_contiguous(memory_format=torch.channels_last)
        held = memory._cells.shape[0]
    assert len(memory.features) == 34 <= held <= 2 * 34
    torch.testing.assert_close(memory.sample_weight.sum(), torch.tensor(1.0))
    for _ in range(300):
        memory.add(torch.ones(1, 4, 3, 3), torch.ones(4), 0.01)
    assert memory._cells.shape[0] == len(memory.features) == len(memory.sample_weight) == 250


def test_the_first_samples_keep_their_least_weight() -> None:
    weights = SampleWeights(6, 4, 0.25)
    replaced = [weights.add(0.5) for _ in range(8)]
    # They count least, and yet it is always the others that go.
    assert replaced == [4, 5, 4, 5, 4, 5, 4, 5]
    np.testing.assert_allclose(weights.values[:4], 0.25 / 4)
    # The newest counts twice the one before.
    assert weights.values[5] == pytest.approx(2 * weights.values[4], rel=1e-6)
    # As officially, what lifts the first ones does not lower the others to the rest of 1.
    assert weights.values[4:].sum() == pytest.approx(0.775, rel=1e-3)

    free = SampleWeights(6, 4, 0.0)
    assert [free.add(0.5) for _ in range(8)] == [4, 5, 0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("capacity", [4, 5])
def test_memory_without_room_is_refused(capacity: int) -> None:
    with pytest.raises(ValueError, match="raise sample_memory_size"):
        SampleMemory(torch.zeros(5, 4, 3, 3), torch.zeros(5, 4), capacity, 0.25)


def test_starts_stay_large_enough() -> None:
    box = np.array([10.0, 20.0, 60.0, 6.0], dtype=np.float32)
    random = np.zeros((2, 4), dtype=np.float32)
    random[1] = 0.5
    starts = start_boxes(box, random, BASE)
    np.testing.assert_array_equal(starts[0], box)
    np.testing.assert_allclose(starts[2], box, rtol=1e-6)
    side = np.sqrt(360.0)
    assert starts[1, 2] == pytest.approx(60.0 - 0.25 * side, rel=1e-6)
    assert starts[1, 3] == pytest.approx(2.0)
    assert starts[1, 1] + starts[1, 3] / 2 == pytest.approx(23.0 - 0.05 * side, rel=1e-6)


def test_the_best_boxes_are_averaged() -> None:
    boxes = np.array(
        [[0, 0, 10, 10], [3, 3, 10, 13], [9, 9, 10, 10], [6, 0, 10, 10], [1, 1, 70, 10]],
        dtype=np.float32,
    )
    ious = np.array([0.5, 0.4, -0.2, 0.3, 0.9], dtype=np.float32)
    # The last is too wide for its height, whatever it is worth.
    np.testing.assert_allclose(choose_box(boxes, ious, BASE), [3, 1, 10, 11])
    boxes[0, 0], ious[1] = np.nan, np.inf
    np.testing.assert_allclose(choose_box(boxes, ious, BASE), [7.5, 4.5, 10, 10])
    assert choose_box(boxes[4:], ious[4:], BASE) is None
    # Sizes below a pixel count as one.
    sliver = np.array([[5, 5, 0.1, 3]], dtype=np.float32)
    np.testing.assert_array_equal(choose_box(sliver, ious[:1], BASE), [5, 5, 1, 3])


def test_a_box_remembers_the_first_shape() -> None:
    box = np.array([10, 20, 40, 10], dtype=np.float32)
    first = np.array([8.0, 2.0], dtype=np.float32)
    # Height and width of the first are 4 to 1, those of the box 1 to 4.
    np.testing.assert_allclose(remember_shape(box, first, 1.0), [25, 5, 10, 40], rtol=1e-6)
    np.testing.assert_allclose(remember_shape(box, first, 0.5), [20, 15, 20, 20], rtol=1e-6)
    assert remember_shape(box, first, 1.0).dtype == np.float32
    assert remember_shape(box, first, 0.0) is box


@pytest.mark.parametrize(
    ("centre", "extent", "start"),
    [
        (3, 12, 0),
        (17, 12, 8),
        (9, 20, 0),
        # One more than the image: it cannot be split, and stays where the window was.
        (3, 21, 0),
        (17, 21, -1),
        (3, 22, -1),
        (17, 23, -1),
        (3, 24, -2),
    ],
)
def test_windows_move_inside(centre: int, extent: int, start: int) -> None:
    position, size = np.full(2, centre, np.float32), np.full(2, extent, np.float32)
    window = choose_window(position, size, 64, (20, 20), Border.INSIDE_MAJOR, 1.0)
    assert window.coordinates == (start, start, start + extent, start + extent)


# Cells from the highest one, for a neighbourhood of 4 cells and of 3: halves go to even numbers.
@pytest.mark.parametrize(
    ("size", "row", "masked"),
    [
        (32.0, 11, range(9, 14)),
        (24.0, 11, range(10, 14)),
        (24.0, 12, range(10, 14)),
        (400.0, 11, range(23)),
    ],
)
def test_what_counts_as_the_target_s_surroundings(size: float, row: int, masked: range) -> None:
    parameters = replace(BASE, target_neighborhood_scale=2.0)
    position = np.full(2, 100.0, dtype=np.float32)
    patch = Placement(position, np.float32(1.0), 352)
    for other in set(range(23)) - {row}:
        score = np.zeros((23, 23), dtype=np.float32)
        score[row, 11], score[other, 11] = 1.0, 0.6
        flag = localise(score, patch, position, np.full(2, size, np.float32), parameters).verdict
        expected = Verdict.NORMAL if other in masked else Verdict.HARD_NEGATIVE
        assert flag is expected, other
