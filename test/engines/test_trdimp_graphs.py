# SPDX-License-Identifier: Apache-2.0
"""TrDiMP's graphs beside its hand-written inference, and a tracker that runs on engines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tracker_ros import create_tracker
from tracker_ros.engines.graph import Engine, EngineUnavailable, Graph
from tracker_ros.engines.half_precision import HalfPrecision
from tracker_ros.engines.torch_engine import CudaGraphEngine, TorchEngine
from tracker_ros.geometry import iou
from tracker_ros.models.trdimp.config import (
    BASE,
    LASOT,
    RESNET50,
    TINY,
    TINY_TRACKING,
    VOT,
    Augmentation,
    TrackingParameters,
    siamese,
)
from tracker_ros.models.trdimp.export import HALF, graphs
from tracker_ros.models.trdimp.features import PatchFeatures
from tracker_ros.models.trdimp.inference import TrDiMPInference
from tracker_ros.models.trdimp.network import TrDiMPNetwork
from tracker_ros.models.trdimp.on_engines import WIRES, TrDiMPOnEngines
from tracker_ros.models.trdimp.tracker import TrDiMPTracker
from tracker_ros.synthetic.scene_video import SyntheticFrame, synthetic_video
from tracker_ros.tracker import Tracker, TrackResult

CPU = torch.device("cpu")
FRAMES, SIZE = 25, (320, 240)
SMALL = replace(TINY, width=8, layers=(1, 1, 1), feature_dim=16, key_dim=8, iou_dim=16)
# Six first samples.
SMALL_TRACKING = replace(
    BASE,
    image_sample_size=96,
    augmentation=Augmentation(
        relative_shift=((0.6, 0.6),), blur=((2, 1),), rotate=(10,), dropout_copies=1
    ),
    sample_memory_size=11,
    transformer_memory_size=7,
    num_init_random_boxes=3,
)


class ForgetfulEngine(TorchEngine):
    """Overwrites what it returned at its next call, as engines may."""

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph, "fp32", CPU)
        self.memory: dict[str, Tensor] = {}

    def __call__(self, **tensors: Tensor) -> dict[str, Tensor]:
        for name, values in super().__call__(**tensors).items():
            self.memory.setdefault(name, torch.empty_like(values)).copy_(values)
        return dict(self.memory)


def small_network() -> TrDiMPNetwork:
    """Random weights; norms and biases do something."""
    torch.manual_seed(0)
    network = TrDiMPNetwork(SMALL).eval()
    for module in network.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.normal_(module.running_mean, 0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
        if isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
            nn.init.normal_(module.bias, 0.0, 0.1)
    return network


def on_engines(
    network: TrDiMPNetwork, parameters: TrackingParameters = SMALL_TRACKING
) -> TrDiMPOnEngines:
    return TrDiMPOnEngines(network.config, graphs(network, parameters), ForgetfulEngine, CPU)


class Pair:
    """One network computed both ways, and something to compute."""

    def __init__(self) -> None:
        self.engines = on_engines(small_network())
        self.plain = TrDiMPInference(small_network(), CPU)
        torch.manual_seed(1)
        self.patches = torch.randn(6, 3, 96, 96)
        self.boxes = torch.tensor([[30.0, 34.0, 28.0, 24.0]]) + torch.randn(6, 4)
        self.labels = torch.rand(40, 1, 6, 6)
        self.features: PatchFeatures = self.plain.features(self.patches)
        scale = SMALL.norm_scale
        self.images = self.features.classification[:1] + scale * torch.randn(40, 16, 6, 6)

    def both(self, ask: Callable[[Any], Any]) -> tuple[Any, Any]:
        return ask(self.engines), ask(self.plain)


@pytest.fixture(scope="module")
def pair() -> Pair:
    return Pair()


def close(found: Tensor, wanted: Tensor, tolerance: float = 1e-5) -> None:
    scale = max(1.0, float(wanted.abs().max()))
    torch.testing.assert_close(found, wanted, rtol=0, atol=tolerance * scale)


def test_features_and_modulation(pair: Pair) -> None:
    found, wanted = pair.both(lambda model: model.features(pair.patches))
    for one, other in zip(found, wanted, strict=True):
        close(one, other)
    first = PatchFeatures(*(layer[:1] for layer in pair.features))
    found, wanted = pair.both(lambda model: model.modulation(first, pair.boxes[0]))
    for one, other in zip(found, wanted, strict=True):
        close(one, other)


@pytest.mark.parametrize("limit", [7, 3, -1])
def test_memory(pair: Pair, limit: int) -> None:
    """As it fills, is full, and forgets; images that are not there must not count."""
    found, wanted = pair.both(
        lambda model: model.start_memory(pair.images[:6], pair.labels[:6], limit)
    )
    close(found.decode(pair.images[:6]), wanted.decode(pair.images[:6]))
    for index in range(6, 6 if limit < 0 else 25):
        image, label = pair.images[index : index + 1], pair.labels[index : index + 1]
        found.prepend(image, label)
        wanted.prepend(image, label)
        assert len(found) == len(wanted)
        close(found.decode(pair.images[-1:]), wanted.decode(pair.images[-1:]))


def test_memory_without_room(pair: Pair) -> None:
    with pytest.raises(ValueError, match="limited to 0 images"):
        pair.engines.start_memory(pair.images[:6], pair.labels[:6], 0)


def test_first_filter_and_score(pair: Pair) -> None:
    decoded = pair.features.classification
    found, wanted = pair.both(lambda model: model.initial_filter(decoded, pair.boxes))
    close(found, wanted)
    found, wanted = pair.both(lambda model: model.score(wanted, decoded[:1]))
    assert found.shape == (7, 7)
    close(found, wanted)


@pytest.mark.parametrize("count", [1, 6, 11])
@pytest.mark.parametrize("weighted", [False, True], ids=["equal", "weighted"])
def test_samples_that_are_not_there_teach_nothing(pair: Pair, count: int, weighted: bool) -> None:
    torch.manual_seed(2)
    start = 0.1 * torch.randn(16, 4, 4)
    boxes = pair.boxes[:1] + torch.randn(count, 4)
    weight = torch.softmax(torch.randn(count), 0) if weighted else None
    for iterations in (0, 1, 5):
        found, wanted = pair.both(
            lambda model, n=iterations: model.fit(start, pair.images[:count], boxes, n, weight)
        )
        assert (wanted - start).abs().max() > 1e-3 or iterations == 0
        close(found, wanted, 1e-6)


def test_an_odd_filter() -> None:
    config = replace(SMALL, filter_size=3)
    torch.manual_seed(3)
    network = TrDiMPNetwork(config).eval()
    engines = on_engines(network)
    plain = TrDiMPInference(network, CPU)
    images, start = config.norm_scale * torch.randn(4, 16, 6, 6), 0.1 * torch.randn(16, 3, 3)
    boxes = torch.tensor([[30.0, 34.0, 28.0, 24.0]]).repeat(4, 1)
    wanted = plain.fit(start, images, boxes, 3)
    close(engines.fit(start, images, boxes, 3), wanted, 1e-6)
    close(engines.score(wanted, images[:1]), plain.score(wanted, images[:1]), 1e-6)


@pytest.mark.parametrize("length", [0.5, (0.2, 1.0)])
def test_refinement(pair: Pair, length: float | tuple[float, float]) -> None:
    settings = replace(
        SMALL_TRACKING, box_refinement_step_length=length, box_refinement_step_decay=0.8
    )
    first = PatchFeatures(*(layer[:1] for layer in pair.features))
    modulation = pair.plain.modulation(first, pair.boxes[0])
    starts = pair.boxes[:4]
    (found, overlaps), (wanted, wanted_overlaps) = pair.both(
        lambda model: model.refine(modulation, first, starts, settings)
    )
    assert (wanted - starts).abs().max() > 0.05
    close(found, wanted)
    close(overlaps, wanted_overlaps)


def test_what_a_static_graph_cannot_do() -> None:
    network = small_network()
    with pytest.raises(EngineUnavailable, match=r"is -1, no limit.*backend 'torch'"):
        graphs(network, replace(SMALL_TRACKING, transformer_memory_size=-1))
    with pytest.raises(EngineUnavailable, match=r"'default'.*backend 'torch'"):
        graphs(network, replace(SMALL_TRACKING, box_refinement_space="default"))


def test_siamese_fits_nothing() -> None:
    names = [graph.spec.name for graph in graphs(small_network(), siamese(SMALL_TRACKING))]
    assert names == [name for name in WIRES if name != "fit"]


@pytest.mark.parametrize("parameters", [BASE, LASOT, VOT], ids=["base", "lasot", "vot"])
def test_sizes_of_the_official_network(parameters: TrackingParameters) -> None:
    """All of its graphs but the backbone, whose width they have, run on tensors of their specs."""
    narrow = replace(RESNET50, layers=(1, 1, 1), whole_classifier=False, width=64)
    torch.manual_seed(0)
    network = TrDiMPNetwork(replace(narrow, feature_dim=64)).eval()
    for graph in graphs(network, parameters):
        check_spec(graph)


def check_spec(graph: Graph) -> None:
    given = graph.example(0)
    graph.spec.check(given)
    assert list(given) == list(graph.spec.inputs)
    with torch.inference_mode():
        outputs = graph.module(*given.values())
    found = [tuple(output.shape) for output in outputs]
    assert found == [spec.shape for spec in graph.spec.outputs.values()]
    assert all(output.isfinite().all() for output in outputs)


@pytest.fixture(scope="module")
def parts(trdimp_graphs: list[Graph]) -> dict[str, Graph]:
    """Of the embedded model."""
    return {graph.spec.name: graph for graph in trdimp_graphs}


@pytest.mark.parametrize("name", WIRES)
def test_graph_in_onnx_runtime(
    parts: dict[str, Graph], open_onnx: Callable[[Graph, str], Engine], name: str
) -> None:
    graph = parts[name]
    check_spec(graph)
    engine = open_onnx(graph, "fp32")
    for seed in (0, 1):
        given = graph.example(seed)
        with torch.inference_mode():
            wanted = graph.module(*given.values())
        found = engine(**given)
        for output, values in zip(graph.spec.outputs, wanted, strict=True):
            close(found[output], values, 1e-4)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", HALF)
def test_graph_in_half_precision(
    parts: dict[str, Graph], name: str, layout: torch.memory_format
) -> None:
    graph = parts[name]
    given = graph.example(0)
    half = HalfPrecision(graph.module).to(memory_format=layout)
    with torch.inference_mode():
        wanted = graph.module(*given.values())
        found = half(*given.values())
    for one, other in zip(found, wanted, strict=True):
        close(one, other, 0.01)
        difference = (one - other).square().mean().sqrt()
        assert difference < 0.01 * other.square().mean().sqrt()


@pytest.fixture(scope="module")
def frames() -> list[SyntheticFrame]:
    return list(synthetic_video(1, FRAMES, SIZE))


def follow(tracker: Tracker, frames: list[SyntheticFrame]) -> list[TrackResult]:
    tracker.initialize(frames[0].image, frames[0].box)
    return [tracker.track(frame.image) for frame in frames[1:]]


def check_same(found: list[TrackResult], wanted: list[TrackResult], pixels: float) -> None:
    assert [result.verdict for result in found] == [result.verdict for result in wanted]
    off = np.subtract([result.box for result in found], [result.box for result in wanted])
    assert np.abs(off).max() <= pixels
    scores = np.subtract([r.score for r in found], [r.score for r in wanted])
    assert np.abs(scores).max() <= 0.01


def test_a_run_in_onnx_runtime(
    parts: dict[str, Graph],
    open_onnx: Callable[[Graph, str], Engine],
    frames: list[SyntheticFrame],
) -> None:
    """Long enough for updates of memory and filter."""
    model = TrDiMPOnEngines(TINY, [*parts.values()], lambda graph: open_onnx(graph, "fp32"), CPU)
    tracker = TrDiMPTracker(model, TINY_TRACKING)
    assert tracker.runtime_info == {"backend": "onnxruntime", "device": "cpu", "precision": "fp32"}
    plain = create_tracker("trdimp_tiny", device="cpu", backend="torch")
    check_same(follow(tracker, frames), follow(plain, frames), 0.5)


def test_targets_on_one_model_do_not_disturb_each_other(frames: list[SyntheticFrame]) -> None:
    """Not even where engines overwrite what they returned."""
    parameters = replace(SMALL_TRACKING, train_skipping=3, transformer_skipping=2)
    model = on_engines(small_network(), parameters)
    one = TrDiMPTracker(model, parameters)
    wanted = follow(one, frames[:8])
    one.initialize(frames[0].image, frames[0].box)
    other = one.fork()
    with pytest.raises(RuntimeError, match="before initialize"):
        other.track(frames[1].image)
    other.initialize(frames[0].image, (20.0, 30.0, 60.0, 50.0))
    found = []
    for frame in frames[1:8]:
        found.append(one.track(frame.image))
        other.track(frame.image)
    check_same(found, wanted, 0.0)


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "least"), [("fp32", 0.98), ("fp16", 0.7)])
def test_a_run_of_recordings_on_a_gpu(
    parts: dict[str, Graph], frames: list[SyntheticFrame], precision: str, least: float
) -> None:
    gpu = torch.device("cuda:0")
    model = TrDiMPOnEngines(
        TINY, [*parts.values()], lambda graph: CudaGraphEngine(graph, precision, gpu), gpu
    )
    tracker = TrDiMPTracker(model, TINY_TRACKING)
    assert tracker.runtime_info["cuda_graph"] == "yes"
    plain = create_tracker("trdimp_tiny", device="cuda:0", backend="torch", precision="fp32")
    found, wanted = follow(tracker, frames), follow(plain, frames)
    assert [result.verdict for result in found] == [result.verdict for result in wanted]
    assert min(iou(a.box, b.box) for a, b in zip(found, wanted, strict=True)) >= least
