# SPDX-License-Identifier: Apache-2.0
"""Pictures of what each family saw and computed, with small untrained networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_networks import SMALL_GRM, SMALL_OSTRACK

from tracker_ros.models.mast.config import MASTConfig, PropagationParameters
from tracker_ros.models.mast.matched_places import matched_places, spread_over
from tracker_ros.models.mast.matching import Reference
from tracker_ros.models.mast.network import MASTInference, MASTNetwork
from tracker_ros.models.mast.tracker import MASTTracker
from tracker_ros.models.one_stream.grm import GRMNetwork
from tracker_ros.models.one_stream.inference import GRMInference, OSTrackInference
from tracker_ros.models.one_stream.ostrack import OSTrackNetwork
from tracker_ros.models.one_stream.tracker import OneStreamTracker
from tracker_ros.models.trdimp.config import BASE, Augmentation, TrDiMPConfig
from tracker_ros.models.trdimp.inference import TrDiMPInference
from tracker_ros.models.trdimp.network import TrDiMPNetwork
from tracker_ros.models.trdimp.tracker import TrDiMPTracker
from tracker_ros.models.two_stream.config import TwoStreamConfig
from tracker_ros.models.two_stream.inference import TwoStreamInference
from tracker_ros.models.two_stream.network import TwoStreamNetwork
from tracker_ros.models.two_stream.tracker import Policy, TwoStreamTracker
from tracker_ros.tracker import Tracker, TrackResult, example_image

CPU = torch.device("cpu")


def ostrack() -> Tracker:
    return OneStreamTracker(OSTrackInference(OSTrackNetwork(SMALL_OSTRACK).eval(), CPU))


def grm() -> Tracker:
    return OneStreamTracker(GRMInference(GRMNetwork(SMALL_GRM).eval(), CPU))


def two_stream() -> Tracker:
    config = TwoStreamConfig(
        template_size=64, search_size=64, embed_dim=16, depth=1, num_heads=2, hold_below=0.0
    )
    always = Policy(refresh_score=0, refresh_interval=1, refresh_jump=99, refresh_growth=99)
    network = TwoStreamNetwork(config).eval()
    network.fold_norm()
    return TwoStreamTracker(TwoStreamInference(network, CPU), always)


def trdimp() -> Tracker:
    config = TrDiMPConfig("basic", (1, 1, 1), 16, False, 64, 16, 4, 100, 0.1, 16, 16)
    views = Augmentation(((0.6, 0.6),), True, ((2, 1),), (10,), 1)
    always = {"target_not_found_threshold": -np.inf, "distractor_threshold": np.inf}
    parameters = replace(BASE, image_sample_size=128, augmentation=views, **always)
    return TrDiMPTracker(TrDiMPInference(TrDiMPNetwork(config).eval(), CPU), parameters)


def mast() -> Tracker:
    network = MASTNetwork(MASTConfig((8, 8, 16, 16, 16), 1, 8)).eval()
    parameters = PropagationParameters(radius=3)
    return MASTTracker(
        MASTInference(network, CPU), parameters, working_size=96, start_shape="rectangle"
    )


def follow(make: Callable[[], Tracker], illustrate: bool = True) -> TrackResult:
    """The result of the third image."""
    torch.manual_seed(3)
    tracker = make()
    tracker.explain = tracker.illustrate = illustrate
    image, box = example_image(96, 128)
    tracker.initialize(image, box)
    for step in (1, 2):
        result = tracker.track(example_image(96, 128, moved=(2 * step, step))[0])
    return result


@pytest.mark.parametrize(
    ("make", "titles"),
    [
        (ostrack, ["template", "score", "kept by block 1", "kept by block 2"]),
        (grm, ["template", "score", "met in block 1", "met in block 2", "met in block 3"]),
        (
            two_stream,
            ["template", "score", "later template", "like first template", "like later template"],
        ),
        (
            trdimp,
            ["first image", "score", "boxes and their IoU"]
            + ["label to learn", "mask to learn", "weight to learn"],
        ),
        (mast, ["mask", "now", "read from frame 0", "read from frame 1"]),
    ],
)
def test_each_family_shows_what_it_decided_by(make, titles):
    result = follow(make)
    assert [view.title for view in result.views] == titles
    for view in result.views:
        assert view.image.dtype == np.uint8
        assert view.image.ndim == 3
        if view.heat is not None:
            assert np.isfinite(view.heat).all()
            assert 0 <= view.heat.min() <= view.heat.max() <= 1
    plain = follow(make, illustrate=False)
    assert plain.views == ()
    assert plain.box == result.box, "looking changes nothing"


def test_ostrack_s_kept_tokens_become_fewer_by_layer():
    *_, first, second = follow(ostrack).views
    assert second.kept.sum() < first.kept.sum()
    assert (first.kept | ~second.kept).all(), "what was eliminated stays so"


def test_trdimp_shows_its_boxes_with_their_overlaps_and_all_views():
    first, _, boxes, label, *_ = follow(trdimp).views
    assert len(first.boxes) == 5, "patches, without the copy whose channels were left out"
    assert len(boxes.boxes) == 5
    assert all(float(text) == float(text) for _, text in boxes.boxes)
    peak = np.unravel_index(label.heat.argmax(), label.heat.shape)
    assert all(2 < place < label.heat.shape[0] - 3 for place in peak), "at the target"


def test_matched_places_are_where_features_came_from():
    torch.manual_seed(1)
    before = torch.randn(1, 16, 20, 24) * 3
    after = before.roll((1, 2), (2, 3))
    labels = torch.zeros(1, 2, 20, 24)
    references = [Reference(torch.randn_like(before), labels, 2), Reference(before, labels, 1)]
    parameters = PropagationParameters(radius=4)
    found = matched_places(after, references, [(10, 12), (5, 9)], parameters)
    assert [(m.reference, m.row, m.column) for m in found] == [(1, 9.0, 10.0), (1, 4.0, 7.0)]
    assert all(0.5 < m.weight <= 1 for m in found)


def test_a_place_beyond_the_window_is_found_in_a_reference_far_back():
    torch.manual_seed(1)
    before = torch.randn(1, 16, 40, 40) * 3
    after = before.roll(6, 3)  # beyond the radius, on the dilated search's grid
    reference = Reference(before, torch.zeros(1, 2, 40, 40), 20)
    parameters = PropagationParameters(radius=4, long_term_gap=15)
    (match,) = matched_places(after, [reference], [(20, 26)], parameters)
    assert (match.row, match.column) == (20.0, 20.0)


def test_cells_are_spread_over_a_mask():
    mask = np.zeros((6, 6), bool)
    assert spread_over(mask, 4) == []
    mask[2:5, 1:4] = True
    cells = spread_over(mask, 4)
    assert len(cells) == 4
    assert (cells[0], cells[-1]) == ((2, 1), (4, 3))
    assert all(mask[cell] for cell in cells)
    assert len(spread_over(mask, 99)) == 9
