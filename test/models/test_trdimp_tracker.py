# SPDX-License-Identifier: Apache-2.0
"""The loop of TrDiMP with a small untrained network: what it repeats, learns and refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tracker_ros.models.trdimp.config import (
    BASE,
    LASOT,
    Augmentation,
    TrackingParameters,
    TrDiMPConfig,
    siamese,
)
from tracker_ros.models.trdimp.inference import TrDiMPInference
from tracker_ros.models.trdimp.network import TrDiMPNetwork
from tracker_ros.models.trdimp.tracker import TrDiMPTracker
from tracker_ros.tracker import TrackResult, Verdict

CONFIG = TrDiMPConfig(
    block="basic",
    layers=(1, 1, 1),
    width=16,
    whole_classifier=False,
    feature_dim=64,
    key_dim=16,
    iou_reference_dim=16,
    iou_dim=16,
)
# Flags do not depend on what an untrained network scores; tests that want one ask for it.
ALWAYS_NORMAL = replace(
    BASE,
    image_sample_size=128,
    search_area_scale=4.0,
    augmentation=Augmentation(
        relative_shift=((0.6, 0.6),), blur=((2, 1),), rotate=(10,), dropout_copies=1
    ),
    sample_memory_size=11,
    train_skipping=3,
    transformer_skipping=2,
    transformer_memory_size=7,
    target_not_found_threshold=-np.inf,
    distractor_threshold=np.inf,
    hard_negative_threshold=np.inf,
)
ALWAYS_UNCERTAIN = replace(ALWAYS_NORMAL, distractor_threshold=-np.inf, displacement_scale=1e9)
ALWAYS_HARD = replace(ALWAYS_NORMAL, hard_negative_threshold=-np.inf)
NEVER_FOUND = replace(ALWAYS_NORMAL, target_not_found_threshold=np.inf)
START = (60.0, 40.0, 24.0, 20.0)
# xywh: beyond every number once it is in pixels of the image.
FAR = torch.tensor([3.4e38, 0.0, 0.0, 0.0])


@pytest.fixture(scope="module")
def model() -> TrDiMPInference:
    torch.manual_seed(5)
    return TrDiMPInference(TrDiMPNetwork(CONFIG).eval(), torch.device("cpu"))


def scene(step: int, height: int = 121, width: int = 163) -> np.ndarray:
    """A patterned box that moves 2 px right and 1 px down per step, on noise."""
    rng = np.random.default_rng(3)
    image = rng.integers(60, 120, (height, width, 3), dtype=np.uint8)
    pattern = rng.integers(0, 2, (5, 6, 3), dtype=np.uint8) * 255
    x, y = int(START[0]) + 2 * step, int(START[1]) + step
    image[y : y + 20, x : x + 24] = pattern.repeat(4, 0).repeat(4, 1)
    return image


def started(
    model: TrDiMPInference, parameters: TrackingParameters = ALWAYS_NORMAL, **options: Any
) -> TrDiMPTracker:
    tracker = TrDiMPTracker(model, parameters, **options)
    tracker.initialize(scene(0), START)
    return tracker


def follow(tracker: TrDiMPTracker, first: int = 1, last: int = 6) -> list[TrackResult]:
    return [tracker.track(scene(step)) for step in range(first, last + 1)]


def assert_same(found: list[TrackResult], wanted: list[TrackResult]) -> None:
    assert [result.box for result in found] == [result.box for result in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert one.score_map is not None
        assert other.score_map is not None
        np.testing.assert_array_equal(one.score_map, other.score_map)


def state(tracker: TrDiMPTracker) -> Any:
    assert tracker._target is not None
    return tracker._target


def test_follows_a_moving_target(model: TrDiMPInference) -> None:
    # An untrained IoU branch knows no sizes: with tiny steps the box keeps its own, and its place
    # is as exact as the cells are small, 11 px here.
    calm = replace(ALWAYS_NORMAL, box_refinement_step_length=1e-9, box_jitter_sz=0.0)
    results = follow(started(model, calm), last=20)
    for step, result in enumerate(results, start=1):
        off = np.subtract(result.box[:2], (START[0] + 2 * step, START[1] + step))
        assert np.abs(off).max() < 13.0, step
        assert result.verdict is Verdict.NORMAL


def test_result_covers_the_search_region(model: TrDiMPInference) -> None:
    result = follow(started(model), last=1)[0]
    assert result.score_map is not None
    assert result.score_map.shape == (9, 9)
    assert result.score_map.dtype == np.float32
    assert result.score_map.min() >= 0.0
    assert result.score == result.score_map.max() <= 1.0
    x, y, w, h = result.search_region
    # Nine cells of 16 px, about the start's middle, at 4 mean sides of it per 128 px.
    assert w == h == pytest.approx(9 * 16 * 4 * (24 * 20) ** 0.5 / 128, rel=0.02)
    assert (x + w / 2, y + h / 2) == pytest.approx((72, 50), abs=1.5)


def test_a_run_repeats_bit_for_bit(model: TrDiMPInference) -> None:
    tracker = started(model)
    first = follow(tracker)
    tracker.initialize(scene(0), START)
    assert_same(follow(tracker), first)
    assert_same(follow(started(model)), first)
    others = follow(started(model, seed=1))
    assert others[0].box != first[0].box


def test_a_search_elsewhere_learns_nothing_from_the_last_image(model: TrDiMPInference) -> None:
    tracker = started(model, ALWAYS_HARD)
    tracker.track(scene(1))
    before = state(tracker).filter
    assert tracker.search_around((90.0, 60.0, 24.0, 20.0))
    tracker.update_model()
    assert state(tracker).filter is before
    result = tracker.track(scene(2))
    x, y, w, h = result.search_region
    assert (x + w / 2, y + h / 2) == pytest.approx((102, 70), abs=1.5)
    tracker.update_model()
    assert state(tracker).filter is not before


def test_learning_early_or_late_gives_the_same_numbers(model: TrDiMPInference) -> None:
    late, early = started(model), started(model)
    for step in range(1, 8):
        results = late.track(scene(step)), early.track(scene(step))
        early.update_model()
        early.update_model()
        assert_same([results[0]], [results[1]])
    late.update_model()
    assert torch.equal(state(late).filter, state(early).filter)
    np.testing.assert_array_equal(
        state(late).samples.weights.values, state(early).samples.weights.values
    )
    assert torch.equal(state(late).memory.labels, state(early).memory.labels)


def test_learn_before_a_start_does_nothing(model: TrDiMPInference) -> None:
    tracker = TrDiMPTracker(model, ALWAYS_NORMAL)
    tracker.update_model()
    with pytest.raises(RuntimeError, match="before initialize"):
        tracker.track(scene(1))


def test_what_each_frame_teaches(model: TrDiMPInference, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = started(model)
    iterations: list[int] = []
    fit = model.fit

    def watched(*args: Any) -> torch.Tensor:
        iterations.append(args[3])
        return fit(*args)

    monkeypatch.setattr(model, "fit", watched)
    images, samples = [], []
    for step in range(1, 7):
        tracker.track(scene(step))
        tracker.update_model()
        images.append(len(state(tracker).memory))
        samples.append(len(state(tracker).samples.features))
    # Every third frame the filter, every second one the memory, until it is full.
    assert iterations == [BASE.net_opt_update_iter] * 2
    assert images == [6, 7, 7, 7, 7, 7]
    assert samples == [7, 8, 9, 10, 11, 11]

    tracker = started(model, ALWAYS_HARD)
    iterations.clear()
    results = follow(tracker, last=3)
    tracker.update_model()
    assert [result.verdict for result in results] == [Verdict.HARD_NEGATIVE] * 3
    assert iterations == [BASE.net_opt_hn_iter] * 3


def test_uncertain_is_refined_and_teaches_nothing(model: TrDiMPInference) -> None:
    tracker = started(model, ALWAYS_UNCERTAIN)
    before = state(tracker).filter.clone()
    results = follow(tracker)
    tracker.update_model()
    assert {result.verdict for result in results} == {Verdict.UNCERTAIN}
    assert len({result.box for result in results}) == len(results)
    assert len(state(tracker).samples.features) == len(state(tracker).memory) == 6
    assert torch.equal(state(tracker).filter, before)


def test_not_found_changes_nothing(model: TrDiMPInference) -> None:
    tracker = started(model)
    last = follow(tracker, last=2)[-1]
    tracker.update_model()
    tracker.parameters = NEVER_FOUND
    samples = len(state(tracker).samples.features)
    results = follow(tracker, 3, 5)
    tracker.update_model()
    assert {result.verdict for result in results} == {Verdict.NOT_FOUND}
    assert {result.box for result in results} == {last.box}
    assert len(state(tracker).samples.features) == samples


def test_siamese_keeps_its_pooled_filter(model: TrDiMPInference) -> None:
    tracker = started(model, siamese(ALWAYS_NORMAL))
    pooled = state(tracker).filter.clone()
    follow(tracker)
    tracker.update_model()
    assert torch.equal(state(tracker).filter, pooled)
    assert not torch.equal(state(started(model)).filter, pooled)
    # Its samples are kept all the same, as officially.
    assert len(state(tracker).samples.features) == 11


def test_a_fractional_interval_never_extends_the_memory() -> None:
    assert not any(frame % LASOT.transformer_skipping == 0 for frame in range(1, 100_000))


def test_goes_back_to_the_last_refined_position(model: TrDiMPInference) -> None:
    tracker = started(model)
    follow(tracker, last=2)
    refined = state(tracker).place
    # No box is neither too wide nor too narrow.
    tracker.parameters = replace(ALWAYS_NORMAL, maximal_aspect_ratio=1.0)
    for step in (3, 4):
        tracker.track(scene(step))
        np.testing.assert_array_equal(state(tracker).place.position, refined.position)
        np.testing.assert_array_equal(state(tracker).place.size, refined.size)

    fresh = started(model, tracker.parameters)
    fresh.track(scene(6))
    assert state(fresh).place.refined is None
    assert not np.array_equal(state(fresh).place.position, state(started(model)).place.position)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((50, 50), dtype=np.uint8), r"shape \(50, 50\)"),
        (np.zeros((50, 50, 3), dtype=np.float32), "dtype float32"),
        (np.zeros((1, 50, 3), dtype=np.uint8), "at least 2 x 2"),
        ("image", "is a str"),
    ],
)
def test_bad_images_keep_the_target(model: TrDiMPInference, image: Any, message: str) -> None:
    wanted = follow(started(model))
    tracker = started(model)
    found = follow(tracker, last=3)
    with pytest.raises(ValueError, match=message):
        tracker.track(image)
    with pytest.raises(ValueError, match=message):
        tracker.initialize(image, START)
    with pytest.raises(ValueError, match="does not overlap"):
        tracker.initialize(scene(0), (500, 40, 20, 20))
    assert_same(found + follow(tracker, first=4), wanted)


@pytest.mark.parametrize(
    ("name", "damage", "what"),
    [
        ("score", lambda score: score * np.nan, "score map"),
        ("refine", lambda answer: (answer[0], answer[1] * np.nan), "predicted overlap"),
        ("refine", lambda answer: (answer[0] * 1e20, answer[1]), "target size"),
        ("refine", lambda answer: (answer[0] + FAR, answer[1]), "target position"),
    ],
)
def test_answers_that_are_not_finite_keep_the_target(
    model: TrDiMPInference,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    damage: Callable[[Any], Any],
    what: str,
) -> None:
    tracker = started(model)
    follow(tracker, last=2)
    place, frame = state(tracker).place, state(tracker).frame
    function: Callable[..., Any] = getattr(model, name)
    with monkeypatch.context() as patch:
        patch.setattr(model, name, lambda *args: damage(function(*args)))
        with pytest.raises(RuntimeError, match=f"{what} that is not finite.*initialise again"):
            tracker.track(scene(3))
    assert state(tracker).place is place
    assert state(tracker).frame == frame
    follow(tracker, first=3)


def test_a_filter_that_is_not_finite_is_not_taken(
    model: TrDiMPInference, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = started(model)
    follow(tracker, last=3)
    before = state(tracker).filter
    with monkeypatch.context() as patch:
        patch.setattr(model, "fit", lambda *args: args[0] * np.nan)
        with pytest.raises(RuntimeError, match="filter that is not finite"):
            tracker.update_model()
    assert state(tracker).filter is before
    follow(tracker, first=4)


def test_a_start_that_fails_keeps_the_earlier_target(
    model: TrDiMPInference, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = follow(started(model))
    tracker = started(model)
    found = follow(tracker, last=3)
    with monkeypatch.context() as patch:
        patch.setattr(model, "initial_filter", lambda *args: torch.full((64, 4, 4), np.nan))
        with pytest.raises(RuntimeError, match=r"filter that is not finite.*load others"):
            tracker.initialize(scene(2), (80.0, 60.0, 30.0, 30.0))
        fresh = TrDiMPTracker(model, ALWAYS_NORMAL)
        with pytest.raises(RuntimeError, match="filter that is not finite"):
            fresh.initialize(scene(0), START)
    assert_same(found + follow(tracker, first=4), wanted)
    with pytest.raises(RuntimeError, match="before initialize"):
        fresh.track(scene(1))


def test_warm_up_leaves_no_trace(model: TrDiMPInference) -> None:
    wanted = follow(started(model))
    tracker = TrDiMPTracker(model, ALWAYS_NORMAL)
    tracker.warm_up()
    with pytest.raises(RuntimeError, match="before initialize"):
        tracker.track(scene(1))
    tracker.initialize(scene(0), START)
    found = follow(tracker, last=3)
    tracker.warm_up()
    assert_same(found + follow(tracker, first=4), wanted)


def test_results_do_not_change_afterwards(model: TrDiMPInference) -> None:
    tracker = started(model)
    result = tracker.track(scene(1))
    assert result.score_map is not None
    before = result.score_map.copy()
    follow(tracker, first=2)
    np.testing.assert_array_equal(result.score_map, before)


@pytest.mark.parametrize(
    "box",
    [
        (-10.0, -8.0, 24.0, 20.0),
        (150.0, 110.0, 30.0, 30.0),
        (80.0, 60.0, 1.0, 1.0),
        (80.0, 60.0, 2.0, 40.0),
        (0.0, 0.0, 163.0, 121.0),
        (-200.0, -150.0, 600.0, 450.0),
    ],
    ids=["corner", "far corner", "one pixel", "thin", "whole image", "larger than the image"],
)
@pytest.mark.parametrize("size", [(121, 163), (240, 161)], ids=str)
def test_places_and_sizes_at_the_limit(
    model: TrDiMPInference, box: tuple[float, ...], size: tuple[int, int]
) -> None:
    tracker = TrDiMPTracker(model, ALWAYS_NORMAL)
    tracker.initialize(scene(0, *size), box)
    for step in range(1, 5):
        result = tracker.track(scene(step, *size))
        assert np.isfinite(result.box).all()
        assert min(result.box[2:]) > 0.0
        assert np.isfinite(result.search_region).all()


def test_image_size_may_change_on_the_way(model: TrDiMPInference) -> None:
    tracker = started(model)
    tracker.track(scene(1))
    result = tracker.track(np.full((2, 3, 3), 90, dtype=np.uint8))
    assert np.isfinite(result.box).all()
    assert np.isfinite(tracker.track(scene(2)).box).all()


def test_without_augmentation_the_filter_learns_from_one_view(model: TrDiMPInference) -> None:
    plain = started(model, replace(ALWAYS_NORMAL, use_augmentation=False))
    assert len(state(plain).samples.features) == 1
    assert len(state(started(model)).samples.features) == ALWAYS_NORMAL.augmentation.views == 6


def test_a_classifier_that_is_not_updated_keeps_filter_and_memory(model: TrDiMPInference) -> None:
    still = started(model, replace(ALWAYS_HARD, update_classifier=False))
    before, remembered = state(still).filter, len(state(still).memory)
    follow(still, last=3)
    still.update_model()
    assert state(still).filter is before
    assert len(state(still).memory) == remembered


def test_simple_localization_always_finds(model: TrDiMPInference) -> None:
    simple = started(model, replace(NEVER_FOUND, advanced_localization=False))
    assert [result.verdict for result in follow(simple, last=2)] == [Verdict.NORMAL] * 2


def test_the_iou_branch_may_learn_from_all_views_but_rotated_ones(model: TrDiMPInference) -> None:
    parameters = replace(ALWAYS_NORMAL, iounet_augmentation=True)
    learned = state(started(model, parameters)).modulation
    plain = state(started(model)).modulation
    assert learned.layer2.shape == plain.layer2.shape
    assert not torch.allclose(learned.layer2, plain.layer2)
    alone = replace(parameters, augmentation=Augmentation((), False, (), (10,), 1))
    only_rotated = state(started(model, alone)).modulation
    torch.testing.assert_close(only_rotated.layer2, plain.layer2, rtol=1e-3, atol=1e-4)


def test_the_border_mode_decides_where_a_search_area_goes(model: TrDiMPInference) -> None:
    near_edge = (2.0, 2.0, 40.0, 36.0)
    regions = {}
    for mode in ("replicate", "inside", "inside_major"):
        tracker = TrDiMPTracker(model, replace(ALWAYS_NORMAL, border_mode=mode))
        tracker.initialize(scene(0), near_edge)
        regions[mode] = tracker.track(scene(1)).search_region
    assert regions["replicate"][0] < -40 < regions["inside_major"][0] < 0 < 20
    assert regions["inside"][2] < regions["inside_major"][2] < regions["replicate"][2]


@pytest.mark.parametrize(
    "change",
    [
        {"image_sample_size": 100},
        {"search_area_scale": 0.0},
        {"border_mode": "mirror"},
        {"train_skipping": 0},
        {"transformer_memory_size": 0},
        {"learning_rate": 1.0},
        {"sample_memory_size": 6},
        {"box_refinement_step_length": (0.1, 0.0)},
        {"box_refinement_space": "log"},
    ],
)
def test_parameters_that_cannot_work_are_refused_by_name(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(ALWAYS_NORMAL, **change)


def test_augmentation_that_cannot_work_is_refused() -> None:
    for change in ({"dropout": 1.0}, {"dropout_copies": -1}, {"blur": ((0, 1),)}):
        with pytest.raises(ValueError, match="augmentation_"):
            Augmentation(**change)  # type: ignore[arg-type]
