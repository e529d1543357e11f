# SPDX-License-Identifier: Apache-2.0
"""The page that compares runs: what is on it, and that it needs nothing else."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace

import cv2
import numpy as np
import pytest

from tools.harness.browser import chromium
from tracker_ros.cli.main import main
from tracker_ros.evaluation.compare_page import ComparedRun, compare_page
from tracker_ros.evaluation.film_strips import find_stretches
from tracker_ros.evaluation.records import SequenceRecord

SIZE = 30


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs on two sequences; the second run loses the target of the second sequence."""
    folder = tmp_path_factory.mktemp("frames")
    files = []
    for index in range(SIZE):
        files.append(str(folder / f"{index:02d}.png"))
        cv2.imwrite(files[-1], np.full((90, 120, 3), 8 * index, np.uint8))
    truth = np.tile([20.0, 20.0, 30.0, 30.0], (SIZE, 1))
    lost = truth.copy()
    lost[15:] += [60.0, 0.0, 0.0, 0.0]

    def record(tracker, sequence, boxes):
        return SequenceRecord(
            tracker,
            sequence,
            tuple(files),
            np.arange(SIZE) / 10,
            truth,
            np.ones(SIZE, bool),
            boxes,
            np.full(SIZE, 0.8),
            ("TRACKING",) * SIZE,
            np.full(SIZE, 0.02),
            attributes=("occlusion",) if sequence == "hard<1>" else (),
        )

    return [
        ComparedRun(t, {"easy": record(t, "easy", truth), "hard<1>": record(t, "hard<1>", boxes)})
        for t, boxes in (("old", truth), ("new", lost))
    ]


def test_the_worst_stretch_is_where_the_run_fell_behind(runs):
    (worst,) = find_stretches([run.records for run in runs])
    assert (worst.sequence, worst.worse, worst.loss) == ("hard<1>", 1, pytest.approx(1.0))
    assert worst.first >= 15
    alone = find_stretches([runs[1].records])
    assert [stretch.sequence for stretch in alone] == ["hard<1>"]


def test_claims_to_track_what_is_gone_are_shown(runs):
    good = runs[0].records["easy"]
    truth = good.truth.copy()
    truth[10:20] = np.nan
    claims = replace(good, truth=truth)
    honest = replace(claims, states=("TRACKING",) * 10 + ("LOST",) * 10 + ("TRACKING",) * 10)
    (worst,) = find_stretches([{"easy": honest}, {"easy": claims}])
    assert (worst.worse, worst.first, worst.last) == (1, 10, 19)
    unknown = replace(claims, known=np.isfinite(truth[:, 0]))
    assert find_stretches([{"easy": unknown}]) == []


def test_the_page_shows_the_difference_and_needs_nothing_else(runs):
    page = compare_page(runs, "a & b")
    assert "a &amp; b" in page
    assert "hard<1>" not in page
    assert page.count("<svg") == 4
    (table,) = re.findall(r'<table class="sortable" id="sequences">.*?</table>', page)
    first_row = re.search(r"<tbody><tr>(.*?)</tr>", table).group(1)
    assert "hard&lt;1&gt;" in first_row, "the largest loss comes first"
    assert re.search(r'class="worse">-0\.\d+<', first_row)
    assert "occlusion" in page
    pictures = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    assert len(pictures) == 5
    shown = cv2.imdecode(np.frombuffer(base64.b64decode(pictures[-1]), np.uint8), 1)
    assert shown.shape == (225, 300, 3)
    assert "<!-- " not in page.replace("<!-- SPDX", "")
    links = re.findall(r'(?:src|href)="(?!data:|#)([^"]+)"', page)
    assert links == []
    identifiers = re.findall(r'\bid="([^"]+)"', page)
    assert len(identifiers) == len(set(identifiers))


def test_records_of_bags_are_compared_and_named_apart(runs, tmp_path, capsys):
    for number, run in enumerate(runs):
        path = tmp_path / f"{number}.json"
        path.write_text(json.dumps(run.records["hard<1>"].as_data() | {"tracker": "same"}))
    files = [str(tmp_path / "0.json"), str(tmp_path / "1.json")]
    out = tmp_path / "page.html"
    assert main(["compare", *files, "--out", str(out)]) == 0
    page = out.read_text()
    assert "same (1)" in page
    assert "same (2)" in page
    (tmp_path / "bad.json").write_text('{"trackers": [{"tracker": "t", "sequences": []}]}')
    (tmp_path / "other.json").write_text("{}")
    capsys.readouterr()
    for bad, told in (("bad.json", " t "), ("other.json", "other.json"), ("none.json", "none.js")):
        assert main(["compare", str(tmp_path / bad), "--out", str(out)]) == 2
        assert told in capsys.readouterr().err
    assert out.read_text() == page


def test_the_table_is_sorted_in_a_browser(runs, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(compare_page(runs, "test"))
    with chromium() as browser:
        page = browser.new_page()
        faults = []
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: faults.append(request.url[:80]))
        page.goto(path.as_uri())
        names = page.locator("#sequences tbody tr td:first-child")
        assert names.all_text_contents() == ["hard<1>", "easy"]
        difference = page.locator("#sequences th button", has_text="new − old")
        difference.click()
        assert names.all_text_contents() == ["hard<1>", "easy"]
        difference.click()
        assert names.all_text_contents() == ["easy", "hard<1>"]
        page.locator("#sequences th button").first.click()
        assert names.all_text_contents() == ["easy", "hard<1>"]
        widths = page.locator(".strip img").evaluate_all("all => all.map(i => i.naturalWidth)")
        assert widths == [300] * 5
    own = [fault for fault in faults if not fault.startswith(("file:", "data:"))]
    assert own == []
