# SPDX-License-Identifier: Apache-2.0
"""Put measured numbers into the marked tables of README.md and into the cards of the weights.

    dev/run python -m tools.measured

The table `demo` of README.md comes from `out/demo.json`, which `make demo` writes. The table
`accuracy` and the accuracy in the cards come from `out/evaluation/results.json`, which
`make accuracy` writes. Where a file is missing, everything stays as it is.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tools.generate import ROOT, replace_table
from tracker_ros import DEFAULT_MODEL, list_models, model_card
from tracker_ros.model_cards import embedded_file


def demo_table(data: dict[str, Any]) -> str:
    """Return a sentence on a run of the demo."""
    frames, latency, machine = data["frames"], data["latency"], data["machine"]
    return (
        f"The run above: {frames['given_to_tracker']} frames at {data['rate_hz']:.0f} Hz, "
        f"{data['tracked_share']:.0%} of them tracked, {frames['dropped']} dropped; mean overlap "
        f"with {len(data['check_boxes'])} hand-placed boxes {data['mean_iou']:.2f}; from image "
        f"stamp to result {latency['p50']:.0f} ms (p50), {latency['p99']:.0f} ms (p99). Measured "
        f"{machine['date']} on {machine['processor']}, no GPU used; camera stand-in, tracker and "
        "recorder shared it."
    )


def accuracy_table(data: dict[str, Any]) -> str:
    """Return the table of means and what it was measured on."""
    machine = data["machine"]
    lines = [
        "| Tracker | Success AUC | Precision at 20 px | Failures | Frames/s |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for entry in data["trackers"]:
        speed = entry["frames_per_second"]
        lines.append(
            f"| {entry['tracker']} | {entry['auc']:.3f} | {entry['precision']:.3f} "
            f"| {entry['failures']} | {'–' if speed is None else f'{speed:.0f}'} |"
        )
    frames = sum(entry["frames"] for entry in data["sequences"])
    sentence = _comparison(data["trackers"])
    used = "no GPU used" if data["device"] == "cpu" else f"GPU {machine['accelerator']}"
    return "\n".join(lines) + (
        f"\n\n{sentence}One pass over {len(data['sequences'])} short public sequences ({frames} "
        f"frames), {machine['date']}, {machine['processor']}, {used}. Every sequence, the "
        "definitions and the command are in [docs/accuracy.md](docs/accuracy.md)."
    )


def _comparison(trackers: list[dict[str, Any]]) -> str:
    """Compare the default model with CSRT in a sentence; empty if one was not measured."""
    auc = {entry["tracker"]: entry["auc"] for entry in trackers}
    if not {DEFAULT_MODEL, "csrt"} <= auc.keys():
        return ""
    gap = auc[DEFAULT_MODEL] - auc["csrt"]
    relation = "above" if gap > 0 else "below"
    return f"`{DEFAULT_MODEL}` is {abs(gap):.3f} AUC {relation} CSRT here. "


TABLES: dict[str, tuple[Path, Callable[[dict[str, Any]], str]]] = {
    "demo": (Path("out/demo.json"), demo_table),
    "accuracy": (Path("out/evaluation/results.json"), accuracy_table),
}


def update_cards(data: dict[str, Any]) -> None:
    """Write the accuracy of embedded models into the cards beside their weights."""
    for entry in data["trackers"]:
        name = entry["tracker"]
        if name not in list_models() or model_card(name).weights is None:
            continue
        card = embedded_file(str(model_card(name).weights)).with_suffix(".json")
        facts = json.loads(card.read_text())
        facts.setdefault("accuracy", {})[name] = {
            "sequences": len(data["sequences"]),
            "success_auc": round(entry["auc"], 3),
            "precision_20px": round(entry["precision"], 3),
        }
        card.write_text(json.dumps(facts, indent=2) + "\n")


def main() -> int:
    """Update README.md and the cards. Returns 1 if no file of results was found."""
    readme = ROOT / "README.md"
    text, done = readme.read_text(), []
    for name, (source, table) in TABLES.items():
        if (ROOT / source).is_file():
            text = replace_table(text, name, table(json.loads((ROOT / source).read_text())))
            done.append(name)
    readme.write_text(text)
    results = ROOT / TABLES["accuracy"][0]
    if results.is_file():
        update_cards(json.loads(results.read_text()))
    print(f"README.md: {', '.join(done) or 'nothing'} updated")
    return 0 if done else 1


if __name__ == "__main__":
    sys.exit(main())
