# SPDX-License-Identifier: Apache-2.0
"""The documents: links lead somewhere, and measured numbers can be renewed."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_relative_links_lead_to_files(document):
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", document.read_text())
    relative = [target for target in targets if "://" not in target]
    missing = [target for target in relative if not (document.parent / target).exists()]
    assert missing == []


def _updater():
    spec = importlib.util.spec_from_file_location("updater", ROOT / "dev" / "update_readme.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MACHINE = {"date": "2026-01-02", "processor": "Some CPU, 2 cores", "accelerator": ""}


def test_readme_has_a_place_for_every_measured_block():
    updater = _updater()
    text = (ROOT / "README.md").read_text()
    for name in updater.BLOCKS:
        renewed = updater.replace_block(text, name, "NEW NUMBERS")
        assert f"<!-- {name}:begin -->\nNEW NUMBERS\n<!-- {name}:end -->" in renewed
        assert updater.replace_block(renewed, name, "NEW NUMBERS") == renewed
    with pytest.raises(ValueError, match="found 0 blocks named 'nothing'"):
        updater.replace_block(text, "nothing", "")


def test_blocks_name_numbers_machine_and_date():
    updater = _updater()
    demo = updater.demo_block(
        {
            "frames": {"given_to_tracker": 170, "dropped": 3},
            "latency": {"p50": 21.4, "p99": 40.6},
            "machine": MACHINE,
            "rate_hz": 9.98,
            "tracked_share": 0.97,
            "mean_iou": 0.712,
            "check_boxes": [{}] * 8,
        }
    )
    for part in ("170 frames at 10 Hz", "97%", "3 dropped", "0.71", "21 ms", "2026-01-02"):
        assert part in demo
    accuracy = updater.accuracy_block(
        {
            "machine": MACHINE,
            "device": "cpu",
            "sequences": [{"frames": 50}, {"frames": 60}],
            "trackers": [
                {
                    "tracker": "csrt",
                    "auc": 0.665,
                    "precision": 0.763,
                    "failures": 0,
                    "frames_per_second": None,
                },
                {
                    "tracker": "ostrack_tiny",
                    "auc": 0.700,
                    "precision": 0.8,
                    "failures": 1,
                    "frames_per_second": 50.4,
                },
            ],
        }
    )
    assert "| csrt | 0.665 | 0.763 | 0 | – |" in accuracy
    assert "2 short public sequences (110 frames)" in accuracy
    assert "| ostrack_tiny | 0.700 | 0.800 | 1 | 50 |" in accuracy
    assert "`ostrack_tiny` is 0.035 AUC above CSRT" in accuracy
    assert "Some CPU" in accuracy
