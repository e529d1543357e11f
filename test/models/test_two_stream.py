# SPDX-License-Identifier: Apache-2.0
"""The two-stream tracker: reading templates, keeping them, and the way the search reaches."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tracker_ros.models.layers.center_head import HeadMaps
from tracker_ros.models.layers.mobilenet import MobileNetV2Body
from tracker_ros.models.two_stream.config import TwoStreamConfig
from tracker_ros.models.two_stream.export import two_stream_graphs
from tracker_ros.models.two_stream.inference import TwoStreamInference
from tracker_ros.models.two_stream.network import TwoStreamNetwork
from tracker_ros.models.two_stream.on_engines import TwoStreamOnEngines
from tracker_ros.models.two_stream.tracker import Policy, TwoStreamTracker, change, smoothed
from tracker_ros.tracker import Verdict

SMALL = TwoStreamConfig(
    template_size=64,
    search_size=64,
    embed_dim=16,
    key_dim=8,
    depth=1,
    num_heads=2,
    head_channels=16,
    template_cells=4,
)
GRID = SMALL.search_grid
ALWAYS = Policy(refresh_interval=1, refresh_jump=9.0, refresh_growth=9.0, inertia=0.0)


class Scripted:
    """A model that finds a box of a fixed size beside the middle, with the scores it is given."""

    config = SMALL
    device = torch.device("cpu")
    runtime_info: dict[str, str] = {}

    def __init__(self, *scores):
        self.scores = list(scores)
        self.read, self.templates = [], []

    def encode_template(self, template, box_xywh):
        return torch.zeros(1, 1)

    def read_template(self, sample, box_xywh):
        self.read.append(box_xywh)
        return torch.full((1, 1), float(len(self.read)))

    def locate(self, template, search):
        self.templates.append((float(template.first), float(template.later)))
        score = torch.full((1, 1, GRID, GRID), 1e-4)
        score[..., GRID // 2, GRID // 2] = self.scores.pop(0)
        size = torch.full((1, 2, GRID, GRID), 1 / SMALL.search_factor)
        return HeadMaps(score, size, torch.full((1, 2, GRID, GRID), 0.1))


def image():
    return np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)


def network():
    torch.manual_seed(0)
    made = TwoStreamNetwork(SMALL).eval()
    norm = made.raw_norm
    assert isinstance(norm, torch.nn.BatchNorm2d)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    return made


def started(model, policy=ALWAYS):
    tracker = TwoStreamTracker(model, policy)
    tracker.initialize(image(), (60, 40, 20, 20))
    return tracker


def test_the_body_pads_as_tensorflow_does():
    body = MobileNetV2Body().eval()
    with torch.no_grad():
        image = torch.rand(1, 3, 32, 32)
        fine, coarse = body(image)
        assert fine.shape == (1, 32, 4, 4)
        assert coarse.shape == (1, 96, 2, 2)
        stem = body.stem(image)
        padded = torch.nn.functional.pad(image, (0, 1, 0, 1))
        last = (padded[0, :, 30:33, 30:33] * body.stem.weight).sum((1, 2, 3)) + body.stem.bias
    assert torch.allclose(stem[0, :, -1, -1], last.clamp(0, 6), atol=1e-5)


def test_a_template_of_features_that_are_positions_lies_around_the_box():
    made = network()
    for parameter in (made.template_position, made.target_mark, *made.shape_mark.parameters()):
        torch.nn.init.zeros_(parameter)
    steps = (torch.arange(GRID) + 0.5) / GRID
    features = torch.zeros(1, SMALL.embed_dim + SMALL.key_dim, GRID, GRID)
    features[0, 0], features[0, 1] = steps[None], steps[:, None]
    box = torch.tensor([[0.4, 0.3, 0.2, 0.4]])
    with torch.no_grad():
        cells = made.read_template(features, box)[0, :, :2].unflatten(0, (4, 4))
    side = SMALL.context * (0.2 * 0.4) ** 0.5
    width, height = 0.2 + side, 0.4 + side
    expected_x = 0.5 + width * torch.tensor([-0.375, -0.125, 0.125, 0.375])
    expected_y = 0.5 + height * torch.tensor([-0.375, -0.125, 0.125, 0.375])
    assert torch.allclose(cells[0, :, 0], expected_x, atol=1e-5)
    assert torch.allclose(cells[:, 0, 1], expected_y, atol=1e-5)


def test_templates_read_from_a_box_and_from_the_same_box_elsewhere_differ():
    made, features = network(), torch.randn(1, SMALL.embed_dim + SMALL.key_dim, GRID, GRID)
    boxes = torch.tensor([[0.2, 0.2, 0.3, 0.3], [0.5, 0.4, 0.3, 0.3]])
    with torch.no_grad():
        both = made.read_template(features.expand(2, -1, -1, -1), boxes)
        alone = made.read_template(features, boxes[1:])
    assert torch.allclose(both[1:], alone, atol=1e-6)
    assert not torch.allclose(both[0], both[1], atol=1e-2)
    assert torch.allclose(both[..., SMALL.embed_dim :].norm(dim=2), torch.ones(2, 16), atol=1e-3)


def test_folding_the_norm_changes_nothing():
    made, raw = network(), torch.randn(2, 224, GRID, GRID)
    with torch.no_grad():
        before = made.features(raw)
        made.fold_norm()
        assert torch.allclose(made.features(raw), before, atol=1e-5)


def test_targets_in_one_pass_are_found_as_they_are_alone():
    made = network()
    model = TwoStreamInference(made, torch.device("cpu"))
    crops = torch.randn(2, 3, 64, 64)
    box = torch.tensor([[0.4, 0.4, 0.25, 0.25]])
    from tracker_ros.models.two_stream.tracker import Templates

    pairs = []
    for crop in crops.split(1):
        first = model.encode_template(crop, box)
        model.locate(Templates(first, first), crop.flip(3))
        pairs.append(Templates(first, model.read_template(0, box)))
    together = model.locate_batch(pairs, crops)
    for sample, (pair, crop) in enumerate(zip(pairs, crops.split(1), strict=True)):
        alone = model.locate(pair, crop)
        for name in HeadMaps._fields:
            wanted = getattr(alone, name)[0]
            assert torch.allclose(getattr(together, name)[sample], wanted, atol=1e-4)


def test_graphs_compute_what_the_network_does():
    made = network()
    graphs = {graph.spec.name: graph for graph in two_stream_graphs(made)}
    assert set(graphs) == {"template", "track", "later_template"}
    for graph in (*graphs.values(), graphs["track"].batched(2)):
        inputs, outputs = graph.reference(3)
        graph.spec.check(inputs)
        assert {name: tuple(t.shape) for name, t in outputs.items()} == {
            name: spec.shape for name, spec in graph.spec.outputs.items()
        }


def test_a_later_template_is_read_where_the_target_is_surely_found():
    model = Scripted(0.9, 0.9, 0.9)
    tracker = started(model)
    for _ in range(3):
        tracker.track(image())
    assert model.templates == [(0.0, 0.0), (0.0, 1.0), (0.0, 2.0)]


@pytest.mark.parametrize(
    "policy",
    [
        replace(ALWAYS, refresh_score=0.95),
        replace(ALWAYS, refresh_interval=3),
        replace(ALWAYS, refresh_jump=0.05),
    ],
    ids=["low score", "too soon", "jump"],
)
def test_it_is_not_read_otherwise(policy):
    model = Scripted(0.9, 0.9)
    tracker = started(model, policy)
    tracker.track(image())
    tracker.track(image())
    assert model.read == []


def test_the_search_reaches_further_while_the_target_is_missing():
    model = Scripted(0.1, 0.1, 0.9, 0.9)
    model.config = replace(SMALL, widening=0.25, widest=1.4)
    tracker = started(model)
    results = [tracker.track(image()) for _ in range(4)]
    sides = [result.search_region[2] for result in results]
    assert sides[:3] == [80, 100, 112]
    assert sides[3] == pytest.approx(4 * results[2].box[2], abs=1)
    verdicts = [result.verdict for result in results]
    assert verdicts == [Verdict.NOT_FOUND, Verdict.NOT_FOUND, None, None]
    assert len(model.read) == 1  # not in the frame in which it came back


def test_a_target_of_another_tracker_stays_its_own():
    model = Scripted(0.9, 0.9, 0.9)
    first = started(model)
    other = first.fork()
    other.initialize(image(), (30, 30, 20, 20))
    first.track(image())
    other.track(image())
    assert model.templates == [(0.0, 0.0), (0.0, 0.0)]


def test_change_and_smoothing_of_boxes():
    jump, growth = change((0, 0, 10, 10), (5, 0, 20, 20))
    assert jump == pytest.approx(np.hypot(10, 5) / 10)
    assert growth == pytest.approx(np.log(2))
    box = smoothed((0, 0, 10, 10), (0, 0, 40, 10), 0.5)
    assert box == pytest.approx((10, 0, 20, 10))
    assert smoothed((0, 0, 10, 10), (3, 4, 40, 10), 0.0) == pytest.approx((3, 4, 40, 10))


def test_engines_keep_the_features_of_their_last_pass(made_engine):
    made = network()
    made.fold_norm()
    model = TwoStreamOnEngines(SMALL, two_stream_graphs(made), made_engine)
    plain = TwoStreamInference(made, torch.device("cpu"))
    boxes = [], []
    for found, one in zip(boxes, (model, plain), strict=True):
        tracker = started(one, replace(ALWAYS, refresh_score=0.0))
        found.extend(tracker.track(image()).box for _ in range(3))
    assert np.allclose(*boxes, atol=1e-3)


@pytest.fixture
def made_engine():
    """Make an engine that computes a graph in torch."""
    from tracker_ros.engines.torch_engine import TorchEngine

    return lambda graph: TorchEngine(graph, "fp32", torch.device("cpu"))
