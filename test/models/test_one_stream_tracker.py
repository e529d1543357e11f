# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tracker_ros.crops import hann_window
from tracker_ros.models.layers.center_head import HeadMaps
from tracker_ros.models.one_stream.config import CropConfig
from tracker_ros.models.one_stream.tracker import OneStreamTracker, find_peak, track_batch
from tracker_ros.tracker import TrackResult, Verdict

SIZES = CropConfig(template_size=32, search_size=64, stride=8)


class BrightestCell:
    """A model that takes the brightest cell of the search crop for the target's centre."""

    config = SIZES
    device = torch.device("cpu")

    def __init__(self, size: float = 0.25) -> None:
        self.size = size
        self.templates: list[tuple[torch.Tensor, torch.Tensor]] = []

    def encode_template(self, template: torch.Tensor, box_xywh: torch.Tensor) -> Any:
        self.templates.append((template, box_xywh))
        return template

    def locate(self, template: Any, search: torch.Tensor) -> HeadMaps:
        cells = torch.nn.functional.avg_pool2d(search.mean(dim=1, keepdim=True), 8)
        score = torch.sigmoid(4.0 * (cells - cells.amax()) + 4.0)
        of_boxes = torch.ones_like(cells).expand(-1, 2, -1, -1)
        return HeadMaps(score, of_boxes * self.size * 64 / search.shape[-1], of_boxes * 0.5)


def frame(cx: float, cy: float, height: int = 120, width: int = 160) -> np.ndarray:
    image = np.full((height, width, 3), 30, dtype=np.uint8)
    image[int(cy) - 10 : int(cy) + 10, int(cx) - 10 : int(cx) + 10] = 255
    return image


def test_follows_what_the_model_finds() -> None:
    tracker = OneStreamTracker(BrightestCell())
    tracker.initialize(frame(60, 50), (50, 40, 20, 20))
    for step in range(1, 8):
        cx, cy = 60 + 5 * step, 50 + 3 * step
        result = tracker.track(frame(cx, cy))
        x, y, w, h = result.box
        assert abs(x + w / 2 - cx) < 6
        assert abs(y + h / 2 - cy) < 6
        assert result.score_map is not None
        assert result.score_map.shape == (8, 8)
        assert result.score_map.dtype == np.float32
        assert 0.0 <= result.score <= 1.0
        left, top, side, other = result.search_region
        assert side == other == 80.0
        assert left <= cx <= left + side
        assert top <= cy <= top + side


class Doubtful(BrightestCell):
    """Finds the same, but is told to hold still below a score, and scores half."""

    config = replace(SIZES, hold_below=0.6)
    confidence = 1.0

    def locate(self, template: Any, search: torch.Tensor) -> HeadMaps:
        maps = super().locate(template, search)
        return maps._replace(score=self.confidence * maps.score)


def test_search_stays_where_it_is_while_the_score_is_low() -> None:
    model = Doubtful()
    tracker = OneStreamTracker(model)
    tracker.initialize(frame(60, 50), (50, 40, 20, 20))
    seen = tracker.track(frame(64, 50))
    model.confidence = 0.5
    hidden = [tracker.track(frame(90, 70)) for _ in range(2)]
    model.confidence = 1.0
    again = tracker.track(frame(66, 50))
    assert seen.verdict is again.verdict is None
    assert all(result.verdict == Verdict.NOT_FOUND for result in hidden)
    assert hidden[0].box == hidden[1].box != seen.box
    assert again.search_region == hidden[0].search_region


def test_the_search_region_grows_while_the_target_is_not_found() -> None:
    model = Doubtful()
    model.config = replace(model.config, widening=0.5, widest=2.0)
    tracker = OneStreamTracker(model)
    tracker.initialize(frame(60, 50), (50, 40, 20, 20))
    model.confidence = 0.5
    sides = [tracker.track(frame(60, 50)).search_region[2] for _ in range(4)]
    assert sides == [80.0, 120.0, 160.0, 160.0]
    assert tracker.search_around((50, 40, 20, 20))
    assert tracker.track(frame(60, 50)).search_region[2] == 80.0


class Narrow(Doubtful):
    """Searches a narrow region while the target is calm; keeps the sizes of all passes."""

    config = replace(SIZES, hold_below=0.2, narrow=0.7)

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def locate(self, template: Any, search: torch.Tensor) -> HeadMaps:
        self.sizes.append(search.shape[-1])
        return super().locate(template, search)

    def locate_batch(self, templates: list[Any], searches: torch.Tensor) -> HeadMaps:
        self.sizes.append(len(templates))
        each = [self.locate(*one) for one in zip(templates, searches.split(1), strict=True)]
        return HeadMaps(*(torch.cat(parts) for parts in zip(*each, strict=True)))


def test_a_calm_target_is_searched_in_a_narrow_region() -> None:
    model = Narrow()
    tracker = OneStreamTracker(model)
    tracker.initialize(frame(60, 50), (50, 40, 20, 20))
    first, second = tracker.track(frame(60, 50)), tracker.track(frame(62, 50))
    assert model.sizes == [64, 48]
    assert (first.search_region[2], second.search_region[2]) == (80.0, 60.0)
    assert second.score_map is not None
    assert second.score_map.shape == (6, 6)
    assert second.box[2:] == pytest.approx((20.0, 20.0))
    assert tracker.search_around((50, 40, 20, 20))
    assert tracker.track(frame(60, 50)).search_region[2] == 80.0


def test_what_a_narrow_search_does_not_find_surely_is_searched_at_once_in_the_whole() -> None:
    model = Narrow()
    tracker = OneStreamTracker(model)
    tracker.initialize(frame(60, 50), (50, 40, 20, 20))
    tracker.track(frame(60, 50))
    assert tracker.track(frame(78, 50)).search_region[2] == 80.0, "it moved by most of its side"
    tracker.track(frame(78, 50))
    tracker.track(frame(78, 50))
    model.confidence = 0.3
    assert tracker.track(frame(78, 50)).search_region[2] == 80.0, "its score is low"
    tracker.track(frame(78, 50))
    assert model.sizes == [64, 48, 64, 64, 48, 48, 64, 64]


class NarrowAndLong(Narrow):
    """Sees a target that is eight times as wide as it is high."""

    config = replace(Narrow.config, clip_margin=2.0)

    def locate(self, template: Any, search: torch.Tensor) -> HeadMaps:
        maps = super().locate(template, search)
        return maps._replace(size=maps.size * torch.tensor([2.4, 0.3]).reshape(1, 2, 1, 1))


def test_a_target_too_long_for_the_narrow_region_is_searched_in_the_whole() -> None:
    model = NarrowAndLong()
    tracker = OneStreamTracker(model)
    tracker.initialize(frame(60, 50), (36, 47, 48, 6))
    for _ in range(3):
        assert tracker.track(frame(60, 50)).score > 0.9
    assert model.sizes == [64, 64, 64]


@pytest.mark.parametrize(
    ("changes", "grid"),
    [({}, 8), ({"search_factor": 2.0}, 8), ({"search_factor": 1.4}, 0), ({"narrow": 0.95}, 0),
     ({"search_size": 48, "narrow": 0.4}, 0), ({"narrow": 0.4}, 4)],
)  # fmt: skip
def test_a_narrow_region_shows_more_than_the_target_or_there_is_none(changes, grid) -> None:
    config = replace(CropConfig(search_size=192, narrow=2 / 3), **changes)
    assert config.narrow_grid == grid
    assert len(config.graphs) == (3 if grid else 2)
    if grid:
        assert config.narrowed().search_size == 16 * grid


def test_a_narrow_region_that_shows_nothing_around_the_target_is_refused() -> None:
    with pytest.raises(ValueError, match=r"narrow is 0\.1"):
        CropConfig(narrow=0.1)


def test_targets_share_passes_with_those_that_are_searched_alike() -> None:
    model = Narrow()
    trackers, alone = [[OneStreamTracker(each) for _ in range(3)] for each in (model, Narrow())]
    for tracker in trackers + alone:
        tracker.initialize(frame(60, 50), (50, 40, 20, 20))
    for tracker in (trackers[0], alone[0]):
        tracker.track(frame(60, 50))
    model.sizes.clear()
    found = track_batch(trackers, [frame(61, 51)] * 3)
    assert model.sizes == [48, 2, 64, 64]
    wanted = [tracker.track(frame(61, 51)) for tracker in alone]
    assert [result.box for result in found] == [result.box for result in wanted]


class Centred(BrightestCell):
    """Puts the centre at the right lower corner of the brightest cell."""

    def locate(self, template: Any, search: torch.Tensor) -> HeadMaps:
        maps = super().locate(template, search)
        return maps._replace(offset=torch.ones_like(maps.offset))


def test_looking_back_tells_the_target_from_what_is_found_elsewhere_in_the_first_image() -> None:
    model = Centred()
    tracker = OneStreamTracker(model)
    assert tracker.look_back(frame(60, 50), (50, 40, 20, 20)) is None
    first = frame(60, 50)
    tracker.initialize(first, (50, 40, 20, 20))
    before = tracker.target
    assert (tracker.look_back(frame(90, 70), (80, 60, 20, 20)) or 0.0) > 0.9
    assert tracker.target is before
    assert torch.equal(model.templates[-1][0], model.templates[0][0]), "of the box that is given"
    tracker.initialize(first, (70, 60, 20, 20))  # dark: the network finds the bright square
    assert tracker.look_back(frame(90, 70), (80, 60, 20, 20)) == 0.0


def test_search_region_is_where_the_crop_was_made() -> None:
    tracker = OneStreamTracker(BrightestCell())
    tracker.initialize(frame(60, 50), (50.4, 40, 20, 20))
    assert tracker.track(frame(60, 50)).search_region == (20.0, 10.0, 80.0, 80.0)


def test_template_is_taken_once_and_its_box_given_as_fractions() -> None:
    model = BrightestCell()
    tracker = OneStreamTracker(model)
    tracker.initialize(frame(60, 50), (50, 40, 20, 20))
    for _ in range(3):
        tracker.track(frame(60, 50))
    ((template, box),) = model.templates
    assert template.shape == (1, 3, 32, 32)
    torch.testing.assert_close(box[0, 2:], torch.tensor([0.5, 0.5]))


def test_box_is_clipped_to_the_image() -> None:
    tracker = OneStreamTracker(BrightestCell(size=1.0))
    tracker.initialize(frame(20, 20), (10, 10, 20, 20))
    x, y, w, h = tracker.track(frame(20, 20)).box
    assert x >= 0
    assert y >= 0
    assert x + w <= 160
    assert y + h <= 120


def test_window_prefers_the_middle_among_equals() -> None:
    flat = np.full((8, 8), 0.5, dtype=np.float32)
    maps = np.zeros((2, 8, 8), dtype=np.float32)
    peak = find_peak(flat, maps, maps, hann_window(8))
    assert divmod(peak.cell, 8) == (3, 3)
    assert peak.score == pytest.approx(0.5)
    assert peak.response < peak.score


def test_track_before_initialize_is_an_error() -> None:
    tracker = OneStreamTracker(BrightestCell())
    with pytest.raises(RuntimeError, match="before initialize"):
        tracker.track(frame(60, 50))
    assert tracker.target is None


def test_refused_start_keeps_the_target() -> None:
    tracker = OneStreamTracker(BrightestCell())
    tracker.initialize(frame(60, 50), (50, 40, 20, 20))
    with pytest.raises(ValueError, match="does not overlap"):
        tracker.initialize(frame(60, 50), (500, 40, 20, 20))
    with pytest.raises(ValueError, match="dtype float32"):
        tracker.initialize(frame(60, 50).astype(np.float32), (50, 40, 20, 20))
    assert tracker.track(frame(60, 50)).search_region == (20.0, 10.0, 80.0, 80.0)


def test_warm_up_leaves_no_trace() -> None:
    model = BrightestCell()
    tracker = OneStreamTracker(model)
    tracker.warm_up()
    with pytest.raises(RuntimeError, match="before initialize"):
        tracker.track(frame(60, 50))
    tracker.initialize(frame(60, 50), (50, 40, 20, 20))
    tracker.warm_up()
    assert tracker.track(frame(60, 50)).search_region == (20.0, 10.0, 80.0, 80.0)


def test_search_follows_the_box_of_the_target() -> None:
    tracker = OneStreamTracker(BrightestCell())
    tracker.initialize(frame(60, 50), (50, 40, 20, 20))
    assert tracker.target is not None
    tracker.target = replace(tracker.target, box=(100.0, 80.0, 20.0, 20.0))
    assert tracker.track(frame(110, 90)).search_region == (70.0, 50.0, 80.0, 80.0)


def test_a_box_that_is_not_finite_is_an_error_and_keeps_the_target() -> None:
    model = BrightestCell()
    tracker = OneStreamTracker(model)
    tracker.initialize(frame(60, 50), (50, 40, 20, 20))
    model.size = float("nan")
    with pytest.raises(RuntimeError, match="expected finite numbers"):
        tracker.track(frame(60, 50))
    model.size = 0.25
    assert tracker.track(frame(60, 50)).search_region == (20.0, 10.0, 80.0, 80.0)


class Together(BrightestCell):
    """Looks at several search regions at once."""

    def locate_batch(self, templates: list[Any], searches: torch.Tensor) -> HeadMaps:
        self.passes = getattr(self, "passes", 0) + 1
        each = [self.locate(*one) for one in zip(templates, searches.split(1), strict=True)]
        return HeadMaps(*(torch.cat(parts) for parts in zip(*each, strict=True)))


STARTS = [(50, 40, 20, 20), (100, 80, 20, 20), (10, 90, 20, 20)]


def followers(model: BrightestCell) -> list[OneStreamTracker]:
    trackers = [OneStreamTracker(model) for _ in STARTS]
    for tracker, start in zip(trackers, STARTS, strict=True):
        tracker.initialize(frame(60, 50), start)
    return trackers


def test_several_targets_share_a_pass() -> None:
    model = Together()
    together, alone = followers(model), followers(BrightestCell())
    for step in range(3):
        image = frame(60 + 4 * step, 50)
        found = track_batch(together, [image] * 3)
        wanted = [tracker.track(image) for tracker in alone]
        assert [r.box for r in found] == [r.box for r in wanted]
        assert [r.search_region for r in found] == [r.search_region for r in wanted]
    assert model.passes == 3


def test_targets_of_several_images_share_a_pass() -> None:
    model = Together()
    assert OneStreamTracker(model).shares_passes
    assert not OneStreamTracker(BrightestCell()).shares_passes
    (first, *others), alone = followers(model), followers(BrightestCell())
    images = [frame(60, 50), frame(64, 54), frame(68, 46)]
    found = first.track_images(others, images)
    wanted = [tracker.track(image) for tracker, image in zip(alone, images, strict=True)]
    assert [r.box for r in found] == [r.box for r in wanted]
    assert len({r.box for r in wanted}) == 3
    assert model.passes == 1
    outcomes = first.track_images(others, [images[0], np.zeros((4, 4), np.uint8), images[2]])
    assert [type(outcome) for outcome in outcomes] == [TrackResult, ValueError, TrackResult]


def test_a_model_without_batches_looks_at_one_target_after_another() -> None:
    found = track_batch(followers(BrightestCell()), [frame(64, 50)] * 3)
    wanted = [tracker.track(frame(64, 50)) for tracker in followers(BrightestCell())]
    assert [r.box for r in found] == [r.box for r in wanted]
    assert track_batch([], []) == []


def test_targets_together_are_kept_when_one_fails() -> None:
    model = Together()
    trackers = followers(model)
    with pytest.raises(ValueError, match="3 trackers have 2 models"):
        track_batch([*trackers[:2], *followers(Together())[:1]], [frame(64, 50)] * 3)
    with pytest.raises(RuntimeError, match="before initialize"):
        track_batch([*trackers, OneStreamTracker(model)], [frame(64, 50)] * 4)
    model.size = float("nan")
    with pytest.raises(RuntimeError, match="expected finite numbers"):
        track_batch(trackers, [frame(64, 50)] * 3)
    model.size = 0.25
    assert track_batch(trackers, [frame(60, 50)] * 3)[1].search_region == (70.0, 50.0, 80.0, 80.0)
