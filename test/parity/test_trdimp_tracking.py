# SPDX-License-Identifier: Apache-2.0
"""Whole runs of TrDiMP and TrSiam with the random numbers of the recorded ones."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from golden_files import TRDIMP_RUNS, Golden, golden, stats
from trdimp_golden_network import new_golden_network

from tracker_ros.crops import hann_window, normalize_tensor
from tracker_ros.models.trdimp import tracker as loop
from tracker_ros.models.trdimp.config import TRDIMP_MODELS, TrackingParameters
from tracker_ros.models.trdimp.features import PatchFeatures
from tracker_ros.models.trdimp.inference import TrDiMPInference
from tracker_ros.models.trdimp.tracker import TrDiMPTracker

BOX_PX = 0.01
REFINED_PX = 1e-3
OVERLAP = 1e-4
SCORE = 1e-4
FILTER = 1e-4
FEATURES = 1e-5
GREY_LEVELS = 0.01

MODELS = {
    "trdimp": "trdimp_resnet50",
    "trsiam": "trsiam_resnet50",
    "trdimp_vot": "trdimp_resnet50_vot",
}

pytestmark = pytest.mark.slow


class RecordedDraws:
    """The random numbers of a recorded run, each handed out once and in order."""

    def __init__(self, record: Golden) -> None:
        found = ~np.isnan(record["box_rand"]).any(axis=(1, 2))
        self._shifts = iter(record["draw_shift"])
        self._mask = record["draw_dropout_mask"]
        self._boxes = iter(record["box_rand"][found])

    def shift(self) -> np.ndarray:
        return next(self._shifts)

    def dropout(self, copies: int, channels: int, probability: float) -> np.ndarray:
        assert self._mask.shape == (copies, channels)
        assert set(np.unique(self._mask)) == {0.0, np.float32(1 / (1 - probability))}
        return self._mask

    def boxes(self, count: int) -> np.ndarray:
        row = next(self._boxes)
        assert len(row) == count
        return row

    def all_used(self) -> bool:
        """Whether every number was asked for."""
        return not [*self._shifts, *self._boxes]


@dataclass
class Seen:
    """What passed through functions that a tracker calls: the arguments, then the result."""

    calls: dict[str, list[tuple[Any, ...]]] = field(default_factory=dict)

    def watch(self, owner: Any, name: str) -> Any:
        """A stand-in for `owner.name` that remembers."""
        function = getattr(owner, name)

        def watched(*args: Any) -> Any:
            result = function(*args)
            self.calls.setdefault(name, []).append((*args, result))
            return result

        return watched

    def last(self, name: str) -> tuple[Any, ...]:
        return self.calls[name][-1]


WATCHED = ("features", "start_memory", "initial_filter", "fit", "refine", "modulation")


class WatchedModel:
    """A network whose answers are remembered."""

    def __init__(self, model: TrDiMPInference, seen: Seen) -> None:
        self._model = model
        for name in WATCHED:
            setattr(self, name, seen.watch(model, name))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


@lru_cache(maxsize=1)
def inference() -> TrDiMPInference:
    """The network of all runs. Many of their patches are the same: features are kept by patch."""
    model = TrDiMPInference(new_golden_network(), torch.device("cpu"))
    compute, known = model.features, {}

    def features(patches: torch.Tensor) -> PatchFeatures:
        key = hashlib.sha256(patches.numpy().tobytes()).digest()
        if key not in known:
            known[key] = compute(patches)
        return known[key]

    model.features = features  # type: ignore[method-assign]
    return model


def parameters_of(name: str) -> TrackingParameters:
    """The parameters that a run was recorded with."""
    recorded = golden(f"{name}_e2e.npz").json("params_json")
    _, parameters = TRDIMP_MODELS[MODELS[recorded["official_file"]]]
    return replace(parameters, **recorded["overrides"])


class Run:
    """A run from the first image to the last, with everything that was recorded of it.

    Attributes:
        record: The recorded run.
        first: What passed at initialisation.
        rows: Arrays of one entry per frame, named as in the record.
        tracker: After the last frame.
    """

    def __init__(self, name: str) -> None:
        self.record = record = golden(f"{name}_e2e.npz")
        self.first, seen = Seen(), Seen()
        self.draws = RecordedDraws(record)
        model: Any = WatchedModel(inference(), self.first)
        self.tracker = TrDiMPTracker(model, parameters_of(name), draws=lambda: self.draws)
        frames, start = record["frames_u8"], record["truth_xywh"][0]
        self.tracker.initialize(frames[0], start)
        self.start_place = self.target.place
        self.base_size = self.target.base_size
        rows: dict[str, list[Any]] = {}
        self.tracker.model = WatchedModel(inference(), seen)  # type: ignore[assignment]
        with pytest.MonkeyPatch.context() as patch:
            for function in ("localise", "choose_window"):
                patch.setattr(loop, function, seen.watch(loop, function))
            for frame in frames[1:]:
                seen.calls.clear()
                for key, value in self._step(frame, seen).items():
                    rows.setdefault(key, []).append(value)
        self.rows = {key: np.asarray(values) for key, values in rows.items()}

    @property
    def target(self) -> Any:
        return self.tracker._target

    def _step(self, frame: np.ndarray, seen: Seen) -> dict[str, Any]:
        """Track one frame; a row of every recorded array."""
        result = self.tracker.track(frame)
        target, place = self.target, self.target.place
        score, patch, *_, sighting = seen.last("localise")
        top, left, bottom, right = seen.last("choose_window")[-1].coordinates
        none = np.full((10, 4), np.nan)
        starts, refined, overlaps = none, none, none[:, 0]
        if "refine" in seen.calls:
            _, _, starts, _, (refined, overlaps) = seen.last("refine")
        sample, box, rate = target.sample, np.full(4, np.nan), np.nan
        if sample is not None:
            box = sample.box
            rate = self.tracker.parameters.hard_negative_learning_rate
            rate = rate if sample.hard_negative else -1.0
        self.tracker.update_model()
        assert target.sample is None
        return {
            "box": result.box,
            "pos_yx": place.position,
            "target_sz_hw": place.size,
            "target_scale": place.scale,
            "flag": result.verdict.value if result.verdict else None,
            "max_score": score.max(),
            "shown_score": result.score,
            "score_map": score,
            "shown_map": result.score_map,
            "translation_yx": sighting.translation,
            "sample_pos_yx": patch.position,
            "sample_scale": patch.scale,
            "search_area_xywh": (left, top, right - left - 1, bottom - top - 1),
            "region": result.search_region,
            "init_boxes": starts,
            "out_boxes": refined,
            "out_iou": overlaps,
            "updated": sample is not None,
            "update_box": box,
            "update_lr": rate,
            "num_stored": target.samples.weights.seen,
            "memory_images": len(target.memory),
            "filter_stats": stats(target.filter.numpy()),
            "sample_weights": target.samples.weights.values.copy(),
        }


@pytest.fixture(scope="module", params=TRDIMP_RUNS)
def run(request: pytest.FixtureRequest) -> Run:
    return Run(request.param)


def largest_difference(found: Any, wanted: np.ndarray) -> float:
    """Largest absolute difference; nan must meet nan."""
    found = np.asarray(found, dtype=np.float64)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(wanted))
    return float(np.nanmax(np.abs(found - wanted)))


def relative(found: Any, wanted: np.ndarray) -> float:
    """The same over the wanted array's largest magnitude."""
    return largest_difference(found, wanted) / float(np.abs(wanted).max())


def test_views_of_the_first_image(run: Run) -> None:
    record, facts = run.record, run.record.json("init_json")
    found = torch.cat([call[0] for call in run.first.calls["features"]])
    zero, one = normalize_tensor(torch.stack([torch.zeros(3, 1, 1), torch.ones(3, 1, 1)]) / 255.0)
    grey = ((found - zero) / (one - zero)).numpy()
    assert len(grey) == len(facts["transforms"])
    assert largest_difference(grey[:, :, ::8, ::8], record["augmented_sub"]) <= GREY_LEVELS
    for patch, wanted in zip(grey, record["augmented_stats"], strict=True):
        scale = [1, 1, patch.size, 1, 1]
        assert np.all(np.abs(stats(patch) - wanted) <= np.multiply(scale, GREY_LEVELS))


def test_geometry_of_the_first_image(run: Run) -> None:
    facts = run.record.json("init_json")
    assert run.start_place.scale == pytest.approx(facts["target_scale"], rel=1e-6)
    assert facts["sample_scale"] == facts["target_scale"]
    np.testing.assert_allclose(run.base_size, facts["base_target_sz_hw"], rtol=1e-6)
    _, boxes, _ = run.first.last("initial_filter")
    np.testing.assert_allclose(boxes.numpy(), run.record["init_target_boxes"], rtol=1e-6)
    moved = [transform["shift_yx"][::-1] for transform in facts["transforms"]]
    moved += [[0, 0]] * facts["dropout_copies_of_first"]
    np.testing.assert_allclose((boxes - boxes[:1])[:, :2].numpy(), moved, atol=1e-4)


def test_features_and_filter_of_the_first_image(run: Run) -> None:
    record = run.record
    classification, labels, *_ = run.first.last("start_memory")
    for images, wanted in (
        (classification, record["init_x_clf_stats"]),
        (run.first.last("initial_filter")[0], record["init_decoded_stats"]),
    ):
        found = np.stack([stats(image.numpy()) for image in images])
        error = np.abs(found - wanted).max(axis=0)
        # A sum of absolute values is as exact as itself, the rest as the largest value.
        assert error[2] <= FEATURES * wanted[:, 2].max()
        assert error[[0, 1, 3, 4]].max() <= FEATURES * np.abs(wanted[:, 3:]).max()
    decoded = run.first.last("initial_filter")[0][:, ::32, ::3, ::3].numpy()
    scale = np.abs(record["init_decoded_stats"][:, 3:]).max()
    assert largest_difference(decoded, record["init_decoded_sub"]) <= FEATURES * scale
    np.testing.assert_allclose(labels.numpy(), record["init_transformer_label"], atol=1e-6)
    fitted = run.first.last("fit")[-1].numpy()[None]
    assert relative(fitted, record["init_filter"]) <= FILTER
    modulation = run.first.last("modulation")[-1]
    for found, key in zip(modulation, ("init_modulation_3", "init_modulation_4"), strict=True):
        assert relative(found.flatten().numpy(), record[key]) <= FEATURES


def test_every_flag(run: Run) -> None:
    np.testing.assert_array_equal(run.rows["flag"], run.record["flag"])
    np.testing.assert_array_equal(run.rows["updated"], run.record["updated"])


def test_every_box(run: Run) -> None:
    for key in ("box", "pos_yx", "target_sz_hw"):
        assert largest_difference(run.rows[key], run.record[key]) <= BOX_PX, key
    wanted = run.record["target_scale"]
    assert largest_difference(run.rows["target_scale"], wanted) <= BOX_PX / 16


def test_every_patch_and_sighting(run: Run) -> None:
    for key in ("translation_yx", "sample_pos_yx", "sample_scale", "search_area_xywh"):
        np.testing.assert_allclose(run.rows[key], run.record[key], rtol=1e-6, atol=1e-6)


def test_every_score_map(run: Run) -> None:
    for key in ("score_map", "max_score"):
        assert largest_difference(run.rows[key], run.record[key]) <= SCORE, key
    np.testing.assert_array_equal(run.rows["shown_map"], np.clip(run.rows["score_map"], 0, 1))
    np.testing.assert_array_equal(run.rows["shown_score"], np.clip(run.rows["max_score"], 0, 1))


def test_every_refinement(run: Run) -> None:
    for key in ("init_boxes", "out_boxes"):
        assert largest_difference(run.rows[key], run.record[key]) <= REFINED_PX, key
    assert largest_difference(run.rows["out_iou"], run.record["out_iou"]) <= OVERLAP
    assert run.draws.all_used()


def test_everything_that_was_learned(run: Run) -> None:
    record = run.record
    for key in ("num_stored", "memory_images"):
        np.testing.assert_array_equal(run.rows[key], record[key])
    assert largest_difference(run.rows["update_box"], record["update_box"]) <= BOX_PX
    np.testing.assert_allclose(run.rows["update_lr"], record["update_lr"], rtol=1e-6)
    np.testing.assert_allclose(
        run.rows["sample_weights"], record["sample_weights"], rtol=2e-6, atol=1e-9
    )
    scale = np.abs(record["filter_stats"]).max(axis=0)
    assert (np.abs(run.rows["filter_stats"] - record["filter_stats"]) / scale).max() <= FILTER
    found = run.target.filter.numpy()[None]
    assert relative(found, record["final_filter"]) <= FILTER
    labels = run.target.memory.labels.numpy()
    np.testing.assert_allclose(labels, record["final_transformer_label"], atol=1e-5)


def test_score_map_lies_where_its_peak_was_found(run: Run) -> None:
    """The middle of the cell with the peak is the position before refinement."""
    windowed = run.tracker.parameters.window_output
    for index in np.flatnonzero(run.rows["flag"] == "normal"):
        score, region = run.rows["score_map"][index], run.rows["region"][index]
        sought = score * hann_window(len(score)) if windowed else score
        row, column = divmod(int(sought.argmax()), len(score))
        cell = region[2] / len(score)
        middle = region[:2] + (np.array([column, row]) + 0.5) * cell
        position = run.rows["sample_pos_yx"][index] + run.rows["translation_yx"][index]
        # Position k is the middle of pixel k, which ends at k + 1.
        np.testing.assert_allclose(middle[::-1], position + 0.5, atol=1e-3)
