# SPDX-License-Identifier: Apache-2.0
"""Fit how likely models' results are right, and write that to the cards of their weights.

    dev/run python -m tools.calibrate ostrack_tiny --pictures ~/.cache/tracker_ros/packages

Each model follows targets through scenes over photographs (`tools/calibration_scenes.py`) and
through drawn scenes (`tracker_ros/synthetic/scene_video.py`). The card holds the fit to all.
How good it is, is told in the card and in a picture of `docs/media` by cross-validation: a quarter
of the scenes at a time is judged by a fit to the others. What was collected is kept in
`--evidence`, so that fitting again takes seconds.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import minimize
from scipy.stats import mannwhitneyu
from tqdm import tqdm

from tools.calibration_scenes import SIZE, draw_scene, list_pictures
from tracker_ros.calibration import EVIDENCE, Calibration
from tracker_ros.following.evidence import EvidenceCollector
from tracker_ros.following.target_state import StateLimits
from tracker_ros.geometry import Box, iou
from tracker_ros.model_cards import embedded_file, model_cards
from tracker_ros.output_files import write_whole
from tracker_ros.registry import create_tracker
from tracker_ros.synthetic.scene_video import SceneConfig, synthetic_video
from tracker_ros.tracker import Tracker

_FRAMES = 90
_SEEN = 0.35
_FOLDS = 4
_RIDGE = 1e-3
_MIN_FRAMES = 15
_FAR, _FAR_KEPT = 0.3, 10


@dataclass(frozen=True)
class Played:
    """What a tracker did in a scene.

    Attributes:
        evidence: (N, len(EVIDENCE)) float64.
        overlaps: (N,) float64 intersection over union with the target's box; -1 while it is away.
    """

    evidence: np.ndarray
    overlaps: np.ndarray


def drawn_scene(seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield images and boxes of a drawn scene, hard or easy by chance; NaN while it is hidden."""
    chance = np.random.default_rng([seed, 7])
    config = SceneConfig(
        target_side=chance.uniform(0.06, 0.25),
        travel=chance.uniform(0.2, 0.45),
        period=chance.uniform(1.2, 5.0),
        scale_change=chance.uniform(0.1, 0.5),
        turn=chance.uniform(0.2, 1.2),
        deformation=chance.uniform(1.0, 8.0),
        distractors=int(chance.integers(6)),
        occluders=int(chance.integers(4)),
        leaves=bool(chance.random() < 0.3),
    )
    for frame in synthetic_video(seed, _FRAMES, SIZE, config):
        seen = frame.visibility > _SEEN
        yield frame.image, np.array(frame.box) if seen else np.full(4, np.nan)


def play(tracker: Tracker, frames: Sequence[tuple[np.ndarray, np.ndarray]]) -> Played:
    """Follow the target from the first frame on."""
    evidence, overlaps = [], []
    collector: EvidenceCollector | None = None
    for image, truth in frames:
        box: Box = (float(truth[0]), float(truth[1]), float(truth[2]), float(truth[3]))
        if collector is None:
            tracker.initialize(image, box)
            collector = EvidenceCollector(image, box)
            continue
        result = tracker.track(image)
        tracker.update_model()
        found = collector.collect(image, result)
        evidence.append([found[name] for name in EVIDENCE])
        if collector.wants_look_back():
            collector.note_look_back(tracker.look_back(image, result.box))
        there = bool(np.isfinite(truth).all() and min(truth[2:]) > 0)
        overlaps.append(iou(result.box, box) if there else -1.0)
    return Played(np.array(evidence), np.array(overlaps))


def collect(
    trackers: Mapping[str, Tracker], pictures: list[Path], scenes: int
) -> dict[str, list[Played]]:
    """Play as many scenes over photographs, and half as many drawn ones, with all trackers."""
    played: dict[str, list[Played]] = {name: [] for name in trackers}
    for seed in tqdm(range(scenes), unit="scene"):
        drawn = [drawn_scene(seed)] if seed % 2 == 0 else []
        for scene in (draw_scene(pictures, seed).frames(), *drawn):
            frames = list(scene)
            for name, tracker in trackers.items():
                played[name].append(play(tracker, frames))
    return played


def fit(played: list[Played]) -> Calibration:
    """Return the logistic regression of "overlaps by more than half" on the evidence.

    The cameras of these scenes jump more than real ones, where 99.6 % of the right boxes are
    within 0.6 sides of the last. So of right boxes further away, nine of ten are left out.
    """
    evidence = np.concatenate([scene.evidence for scene in played])
    right = np.concatenate([scene.overlaps for scene in played]) > 0.5
    far = right & (evidence[:, EVIDENCE.index("jump")] > _FAR)
    kept = ~far | (far.cumsum() % _FAR_KEPT == 0)
    evidence, right = evidence[kept], right[kept]
    signs = np.where(right, 1.0, -1.0)

    def loss(values: np.ndarray) -> float:
        odds = signs * (values[0] + evidence @ values[1:])
        return float(np.logaddexp(0.0, -odds).mean() + _RIDGE * (values[1:] ** 2).sum())

    bias, *weights = minimize(loss, np.zeros(1 + len(EVIDENCE))).x
    return Calibration(
        round(float(bias), 4),
        {name: round(float(w), 4) for name, w in zip(EVIDENCE, weights, strict=True)},
        {
            name: round(float(mean), 4)
            for name, mean in zip(EVIDENCE, evidence[right].mean(0), strict=True)
        },
    )


def probabilities(calibration: Calibration, scene: Played) -> np.ndarray:
    """Return the (N,) float64 probabilities that a scene's results are right."""
    rows = (dict(zip(EVIDENCE, row, strict=True)) for row in scene.evidence)
    return np.array([calibration.probability(row) for row in rows])


def cross_validate(played: list[Played]) -> list[np.ndarray]:
    """Return the probabilities of each scene, by fits to scenes of other quarters."""
    fits = [
        fit([scene for i, scene in enumerate(played) if i % _FOLDS != fold])
        for fold in range(_FOLDS)
    ]
    return [probabilities(fits[i % _FOLDS], scene) for i, scene in enumerate(played)]


def judge(scores: list[np.ndarray], played: list[Played]) -> dict[str, float]:
    """Return how well the probabilities tell right from wrong results, rounded.

    `auroc` of right against other results, the shares of the frames `tracking` by the default
    limits among right ones and among those `without overlap`, and the mean distance of probability
    and share of right results over tenths (`calibration_error`).
    """
    tracking = []
    limits = StateLimits()
    for of_scene in scores:
        found = True
        for score in of_scene:
            found = score >= (limits.score_lost if found else limits.score_found)
            tracking.append(found)
    overlaps = np.concatenate([scene.overlaps for scene in played])
    score, tracked = np.concatenate(scores), np.array(tracking)
    right, apart = overlaps > 0.5, overlaps <= 0
    tenths = np.minimum((score * 10).astype(int), 9)
    errors = [
        abs(score[tenths == i].mean() - right[tenths == i].mean()) * (tenths == i).mean()
        for i in range(10)
        if (tenths == i).any()
    ]
    order = mannwhitneyu(score[right], score[~right]).statistic
    figures = {
        "auroc": order / (right.sum() * (~right).sum()),
        "tracking_of_right": tracked[right].mean(),
        "tracking_without_overlap": tracked[apart].mean(),
        "calibration_error": sum(errors),
    }
    return {name: round(float(value), 3) for name, value in figures.items()}


def draw_reliability(model: str, scores: list[np.ndarray], played: list[Played]) -> None:
    """Write docs/media/reliability_MODEL.png: the share of right results for each score."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = np.concatenate([scene.evidence for scene in played])
    right = np.concatenate([scene.overlaps for scene in played]) > 0.5
    own = 1.0 / (1.0 + np.exp(-rows[:, EVIDENCE.index("score")]))
    fitted = np.concatenate(scores)
    figure, axes = plt.subplots(figsize=(4.2, 4.0), layout="constrained")
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    for name, score, colour in (
        ("the tracker's own", own, "tab:orange"),
        ("published", fitted, "tab:blue"),
    ):
        tenths = np.minimum((score * 10).astype(int), 9)
        shown = [i for i in range(10) if (tenths == i).sum() >= _MIN_FRAMES]
        axes.plot(
            [score[tenths == i].mean() for i in shown],
            [right[tenths == i].mean() for i in shown],
            marker="o", color=colour, label=name,
        )  # fmt: skip
    axes.set(xlabel="score", ylabel="share of right boxes", title=model, xlim=(0, 1), ylim=(0, 1))
    axes.legend(frameon=False, loc="upper left")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(Path(f"docs/media/reliability_{model}.png"), dpi=110)


def evidence_of(path: Path) -> list[Played]:
    """Read what `keep_evidence` has written."""
    data = np.load(path)
    scenes = (np.split(data[name], data["starts"]) for name in ("evidence", "overlaps"))
    return [Played(*parts) for parts in zip(*scenes, strict=True)]


def keep_evidence(path: Path, scenes: list[Played]) -> None:
    """Write what was collected, so that fitting again takes seconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        path,
        evidence=np.concatenate([scene.evidence for scene in scenes]),
        overlaps=np.concatenate([scene.overlaps for scene in scenes]),
        starts=np.cumsum([len(scene.overlaps) for scene in scenes])[:-1],
    )


def write_card(model: str, weights: str, played: list[Played]) -> dict[str, object]:
    """Fit a model, judge that by cross-validation, and write its card and plot."""
    calibration, scores = fit(played), cross_validate(played)
    path = embedded_file(weights).with_suffix(".json")
    facts = json.loads(path.read_text(encoding="utf-8"))
    facts.setdefault("calibration", {})[model] = fitted = {
        "bias": calibration.bias,
        "weights": calibration.weights,
        "typical": calibration.typical,
        "scenes": len(played),
        "cross_validated": judge(scores, played),
    }
    write_whole(path, json.dumps(facts, indent=2) + "\n")
    draw_reliability(model, scores, played)
    return fitted


def main() -> None:
    """Collect, or read what was collected; fit, judge, and write the cards."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--pictures", type=Path, nargs="+", required=True, help="folders")
    parser.add_argument("--scenes", type=int, default=60, help="(default: %(default)s)")
    parser.add_argument("--evidence", type=Path, default=Path("out"), help="folder (default: out)")
    parser.add_argument("--backend", default="auto")
    arguments = parser.parse_args()
    cards = model_cards()
    weights = {name: cards[name].weights for name in arguments.models}
    for name, file in weights.items():
        if file is None:
            parser.error(f"{name} has no embedded weights, so it has no card to write to")
    kept = {name: arguments.evidence / f"evidence_{name}.npz" for name in weights}
    missing = [name for name, path in kept.items() if not path.is_file()]
    if missing:
        trackers = {name: create_tracker(name, backend=arguments.backend) for name in missing}
        found = collect(trackers, list_pictures(arguments.pictures), arguments.scenes)
        for name, scenes in found.items():
            keep_evidence(kept[name], scenes)
    for name, file in weights.items():
        print(name, json.dumps(write_card(name, str(file), evidence_of(kept[name])), indent=2))


if __name__ == "__main__":
    main()
