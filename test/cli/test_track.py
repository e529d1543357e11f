# SPDX-License-Identifier: Apache-2.0
"""`tracker-ros track`: what it writes, prints and refuses."""

import json
import resource
import signal
import struct
import sys
import zlib

import cv2
import numpy as np
import pytest

from tracker_ros.cli.main import main
from tracker_ros.io.mask_files import write_label_map
from tracker_ros.io.sources import open_video
from tracker_ros.model_cards import embedded_file
from tracker_ros.tracker import Tracker, TrackResult, View


@pytest.fixture(autouse=True)
def _no_display(monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)


@pytest.fixture
def track(square_video, untrained_weights):
    def run(*arguments):
        box = ["--box", "30", "40", "32", "32"]
        weights = ["--weights", str(untrained_weights)]
        return main(["track", str(square_video), *box, *weights, *arguments])

    return run


def test_writes_video_and_results(track, tmp_path, capsys):
    out = tmp_path / "out.mp4"
    assert track("--out", str(out), "--label", "square") == 0
    with open_video(out) as video:
        assert len(video) == 8
        assert video.fps == 10
        assert video.size[0] > 160
        assert video.size[1] == 120
    results = json.loads(out.with_suffix(".json").read_text())
    assert results["frames"] == len(results["results"]) == 8
    assert results["results"][0] == {
        "frame": 0,
        "time_s": 0.0,
        "box": [30.0, 40.0, 32.0, 32.0],
        "score": 1.0,
        "state": "TRACKING",
    }
    assert all(len(entry["box"]) == 4 for entry in results["results"])
    assert results["state_changes"][0] == {"frame": 0, "time_s": 0.0, "state": "TRACKING"}
    assert results["frames_per_second"] > 0
    printed = capsys.readouterr().out
    assert "of 8 frames tracked" in printed
    assert str(out) in printed


def test_json_goes_to_standard_output_alone(track, capsys):
    assert track("--json", "--count", "3") == 0
    results = json.loads(capsys.readouterr().out)
    assert results["model"] == "ostrack_tiny"
    assert results["frames"] == 3


def test_start_and_results_file(track, tmp_path):
    assert track("--start", "5", "--results", str(tmp_path / "boxes.json")) == 0
    assert json.loads((tmp_path / "boxes.json").read_text())["frames"] == 3


@pytest.mark.parametrize("how", ["video", "folder", "results"])
def test_nothing_that_is_read_or_written_is_overwritten(how, square_video, tmp_path, capsys):
    folder = tmp_path / "frames"
    folder.mkdir()
    cv2.imwrite(str(folder / "1.png"), np.zeros((60, 80, 3), np.uint8))
    video, *outputs = {
        "video": (square_video, "--out", square_video),
        "folder": (folder, "--out", folder / "drawn.mp4"),
        "results": (folder, "--out", tmp_path / "a.png", "--results", tmp_path / "a.png"),
    }[how]
    before = square_video.read_bytes()
    assert main(["track", str(video), "--box", "1", "2", "9", "9", *map(str, outputs)]) == 2
    assert "would be overwritten or mixed up" in capsys.readouterr().err
    assert square_video.read_bytes() == before
    assert [path.name for path in folder.iterdir()] == ["1.png"]
    assert not (tmp_path / "a.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.mp4", "--box", "1", "2", "3", "4"], "no video at 'nowhere.mp4'"),
        (["VIDEO"], "--box is missing"),
        (["VIDEO", "--box", "900", "900", "5", "5"], "does not overlap the image of 160 x 120"),
        (["VIDEO", "--box", "1", "2", "0", "4"], "0 x 4 px"),
        (["VIDEO", "--box", "1", "2", "9", "9", "--model", "ostrak"], "'ostrak' is unknown"),
        (["VIDEO", "--box", "1", "2", "9", "9", "--device", "tpu"], "device 'tpu' is unknown"),
        (
            ["VIDEO", "--box", "1", "2", "9", "9", "--out", "out.gif"],
            "ending in one of .mp4, .png",
        ),
        (["VIDEO", "--box", "1", "2", "9", "9", "--start", "8"], "has 8 frames"),
        (["VIDEO", "--box", "1", "2", "9", "9", "--backend", "abacus"], "'abacus' is not"),
        (["VIDEO", "--box", "1", "2", "9", "9", "--option", "seed"], "write NAME=VALUE"),
        (["VIDEO", "--box", "1", "2", "9", "9", "--option", "seed=1"], "has no option 'seed'"),
        (["VIDEO", "--box", "1", "2", "9", "9", "--explain"], "name with --out"),
        (["VIDEO", "--box", "1", "2", "9", "9", "--mask", "m.png"], "leave one out"),
        (["VIDEO", "--mask", "m.png"], "no mask at 'm.png'"),
        (["VIDEO", "--box", "1", "2", "9", "9", "--object", "2"], "are about a mask"),
    ],
)
def test_errors_are_one_line_and_exit_2(
    arguments, message, square_video, untrained_weights, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    arguments = [str(square_video) if part == "VIDEO" else part for part in arguments]
    assert main(["track", *arguments, "--weights", str(untrained_weights)]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert message in error[-1]
    assert error[-1].startswith("tracker-ros track: error:")
    assert "Traceback" not in "".join(error)
    assert list(tmp_path.iterdir()) == [], "nothing half-made is left behind"


def test_a_mask_and_a_picture(square_video, untrained_weights, tmp_path):
    mask = np.zeros((120, 160), np.uint8)
    mask[40:72, 30:62] = 255
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    out = tmp_path / "new" / "last.png"
    arguments = ["--mask", str(tmp_path / "mask.png"), "--weights", str(untrained_weights)]
    assert main(["track", str(square_video), *arguments, "--out", str(out), "--count", "3"]) == 0
    results = json.loads(out.with_suffix(".json").read_text())
    assert results["results"][0]["box"] == [30.0, 40.0, 32.0, 32.0]
    assert cv2.imread(str(out)).shape[0] == 120
    for picture, words in ((np.zeros_like(mask), "has no object"), (mask[:60], "has shape")):
        cv2.imwrite(str(tmp_path / "mask.png"), picture)
        with pytest.raises(ValueError, match=words):
            main(["--traceback", "track", str(square_video), *arguments])


def test_a_mask_reaches_the_model(square_video, tmp_path, monkeypatch):
    started = []

    class Masks(Masking):
        def initialize_mask(self, image, mask):
            started.append(mask)
            super().initialize_mask(image, mask)

    monkeypatch.setattr("tracker_ros.registry.create_tracker", lambda name, **options: Masks())
    mask = np.zeros((120, 160), np.uint8)
    mask[40:72, 30:62] = 7
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    assert main(["track", str(square_video), "--mask", str(tmp_path / "mask.png")]) == 0
    assert np.array_equal(started[0], mask > 0)


def test_each_object_of_a_label_map_is_followed(square_video, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tracker_ros.registry.create_tracker", lambda name, **options: Masking())
    labels = np.zeros((120, 160), np.uint8)
    labels[40:72, 30:62] = 1
    labels[80:100, 90:130] = 3
    write_label_map(tmp_path / "labels.png", labels)
    command = ["track", str(square_video), "--mask", str(tmp_path / "labels.png"), "--json"]
    assert main([*command, "--out", str(tmp_path / "out.mp4")]) == 0
    results = json.loads(capsys.readouterr().out)
    assert results["objects"] == [1, 3]
    boxes = [[target["box"] for target in frame["targets"]] for frame in results["results"]]
    assert boxes[0] == [[30.0, 40.0, 32.0, 32.0], [90.0, 80.0, 40.0, 20.0]]
    assert len(boxes) == 8
    assert [change["target_id"] for change in results["state_changes"]][:2] == ["1", "2"]
    assert main([*command, "--object", "3"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert results["results"][0]["box"] == [90.0, 80.0, 40.0, 20.0]
    assert main([*command, "--object", "2"]) == 2
    assert "it has 1, 3" in capsys.readouterr().err


def test_several_boxes(track, square_video, capsys):
    assert track("--box", "80", "20", "40", "30", "--json", "--count", "2") == 0
    first, second = json.loads(capsys.readouterr().out)["results"]
    assert [target["box"][:2] for target in first["targets"]] == [[30.0, 40.0], [80.0, 20.0]]
    assert [target["target_id"] for target in second["targets"]] == ["1", "2"]


def test_without_a_box_one_is_drawn_where_there_is_a_display(square_video, monkeypatch, capsys):
    shown = []

    def select(window, image, **options):
        shown.append(image)
        return (30, 40, 32, 32)

    monkeypatch.setattr("tracker_ros.registry.create_tracker", lambda name, **options: Masking())
    monkeypatch.setattr(cv2, "selectROI", select)
    monkeypatch.setattr(cv2, "destroyWindow", lambda window: None)
    monkeypatch.setenv("DISPLAY", ":0")
    assert main(["track", str(square_video), "--json", "--count", "2"]) == 0
    assert json.loads(capsys.readouterr().out)["results"][0]["box"] == [30.0, 40.0, 32.0, 32.0]
    assert shown[0].shape == (120, 160, 3)
    monkeypatch.setattr(cv2, "selectROI", lambda window, image, **options: (0, 0, 0, 0))
    assert main(["track", str(square_video)]) == 2
    assert "no box was drawn" in capsys.readouterr().err


def test_options_reach_the_model_and_explain_draws_the_token_mask(track, tmp_path, monkeypatch):
    asked = []

    def create(name, **arguments):
        asked.append((name, arguments))
        return Masking()

    monkeypatch.setattr("tracker_ros.registry.create_tracker", create)
    options = ["--option", "threshold=0.4", "--option", "seed=3"]
    options += ["--engine-cache", str(tmp_path / "engines")]
    assert track("--explain", "--model", "some", "--out", str(tmp_path / "a.mp4"), *options) == 0
    ((name, arguments),) = asked
    assert (name, arguments["threshold"], arguments["seed"]) == ("some", "0.4", "3")
    assert arguments["backend"] == "torch", "engines return no token mask"
    assert arguments["engine_cache_dir"] == tmp_path / "engines"
    with open_video(tmp_path / "a.mp4") as video:
        first, second = list(video)[:2]
    assert first[100:120, :150].mean() > 80, "nothing was compared yet: as it is"
    assert second[100:120, :150].mean() < 60, "outside the search region: dark"
    tint = second[45:75, 5:25].astype(int) - second[45:75, 85:105]
    assert first.shape == second.shape == (120 + 360, 480, 3)
    assert first[130:].mean() < 40, "there is no view yet"
    assert second[130:].mean() > 100
    assert tint[..., 2].mean() > 50, "the mask is the left half of the region"


class Signalled(Tracker):
    """Finds the target where it was; gets signals in the third frame, then goes on or fails."""

    def __init__(self, signals=(), failure=None):
        self.signals, self.failure, self.frames = signals, failure, 0

    def initialize(self, image, box):
        self.box = tuple(box)

    def track(self, image):
        self.frames += 1
        if self.frames == 3:
            for number in self.signals:
                signal.raise_signal(number)
            if self.failure is not None:
                raise self.failure
        return TrackResult(self.box, 0.5, None, (0.0, 0.0, 10.0, 10.0))

    def warm_up(self):
        pass


@pytest.mark.parametrize(
    ("signals", "status", "frames"),
    [
        ([signal.SIGINT], 130, 4),
        ([signal.SIGTERM], 143, 4),
        ([signal.SIGINT, signal.SIGTERM], 143, 3),
    ],
)
def test_a_signal_keeps_the_results_so_far(track, tmp_path, monkeypatch, signals, status, frames):
    monkeypatch.setattr("tracker_ros.registry.create_tracker", lambda *_, **__: Signalled(signals))
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert track("--out", str(tmp_path / "out.mp4")) == status
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    results = json.loads((tmp_path / "out.json").read_text())
    assert results["complete"] is False
    assert results["ended_by"] == signal.Signals(status - 128).name
    assert results["frames"] == len(results["results"]) == frames
    with open_video(tmp_path / "out.mp4") as video:
        assert len(list(video)) == frames, "the video is finished"
    assert {path.name for path in tmp_path.iterdir()} == {"out.mp4", "out.json"}


def test_a_failure_keeps_the_results_so_far(track, tmp_path, monkeypatch, capsys):
    failing = Signalled(failure=RuntimeError("the GPU is gone"))
    monkeypatch.setattr("tracker_ros.registry.create_tracker", lambda *_, **__: failing)
    assert track("--out", str(tmp_path / "out.mp4")) == 2
    assert "the GPU is gone" in capsys.readouterr().err
    results = json.loads((tmp_path / "out.json").read_text())
    assert (results["complete"], results["frames"]) == (False, 3)
    with open_video(tmp_path / "out.mp4") as video:
        assert len(list(video)) == 3


def test_whole_results_say_so(track, monkeypatch, capsys):
    monkeypatch.setattr("tracker_ros.registry.create_tracker", lambda *_, **__: Signalled())
    assert track("--json") == 0
    results = json.loads(capsys.readouterr().out)
    assert results["complete"] is True
    assert "ended_by" not in results


def test_a_full_disk_keeps_the_earlier_video_and_the_results(track, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tracker_ros.registry.create_tracker", lambda *_, **__: Signalled())
    out, results = tmp_path / "out.mp4", tmp_path / "out.json"
    out.write_bytes(b"earlier")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # it would be cut, and kept
    kept = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limit[1]))
    try:
        assert track("--out", str(out)) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, kept)
    assert str(out) in capsys.readouterr().err
    assert out.read_bytes() == b"earlier"
    assert json.loads(results.read_text())["frames"] > 0
    assert {path.name for path in tmp_path.iterdir()} == {"out.mp4", "out.json"}


@pytest.mark.parametrize("option", ["--out", "--results"])
@pytest.mark.parametrize("name", ["WEIGHTS", "MASK", "VIDEO", "embedded"])
def test_no_input_is_overwritten(
    option, name, square_video, untrained_weights, tmp_path, monkeypatch, capsys
):
    cv2.imwrite(str(tmp_path / "mask.png"), np.full((120, 160), 255, np.uint8))
    inputs = {"WEIGHTS": untrained_weights, "MASK": tmp_path / "mask.png", "VIDEO": square_video}
    path = inputs.get(name, embedded_file("ostrack_tiny.safetensors"))
    before = path.read_bytes()
    if option == "--out":
        link = tmp_path / "link.png"
        link.symlink_to(path)
        path = link
    weights = [] if name == "embedded" else ["--weights", str(untrained_weights)]
    arguments = ["--mask", str(tmp_path / "mask.png"), option, str(path), *weights]
    assert main(["track", str(square_video), *arguments]) == 2
    assert option in capsys.readouterr().err
    assert path.read_bytes() == before


def test_an_unwritable_target_is_noticed_before_the_work(track, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        "tracker_ros.registry.create_tracker", lambda *_, **__: pytest.fail("work was begun")
    )
    (tmp_path / "file").write_text("in the way")
    assert track("--results", str(tmp_path / "file" / "r.json")) == 2
    assert "r.json" in capsys.readouterr().err


@pytest.mark.parametrize(("width", "height"), [(65_535, 65_535), (2**31 - 1, 1)])
def test_a_picture_that_claims_too_many_pixels_is_named(tmp_path, capsys, width, height):
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header
    (tmp_path / "a.png").write_bytes(data + struct.pack(">I", zlib.crc32(header)))
    assert main(["track", str(tmp_path), "--box", "1", "2", "9", "9"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "a.png" in line


class Masking(Tracker):
    """Finds the target where it was; the token mask is the left half of its search region."""

    def initialize(self, image, box):
        self.box = tuple(box)

    def track(self, image):
        mask = None
        if self.explain:
            mask = np.zeros((3, 4, 4), bool)
            mask[:, :, :2] = True
        region = (0.0, 40.0, 120.0, 40.0)
        views = (View("all white", np.full((9, 9, 3), 255, np.uint8)),) if self.illustrate else ()
        return TrackResult(self.box, 0.5, None, region, token_mask=mask, views=views)

    def warm_up(self):
        pass


def test_traceback_on_request(square_video):
    with pytest.raises(FileNotFoundError):
        main(["--traceback", "track", "nowhere.mp4", "--box", "1", "2", "3", "4"])


def test_a_verdict_of_the_tracker_stands_in_the_results(square_video, tmp_path):
    out = tmp_path / "out.json"
    box = ["--box", "30", "40", "32", "32"]
    look_alikes_everywhere = ["hard_negative_threshold=-1", "target_not_found_threshold=-1"]
    options = [word for text in look_alikes_everywhere for word in ("--option", text)]
    status = main(
        ["track", str(square_video), *box, "--model", "trsiam_tiny", *options]
        + ["--backend", "torch", "--count", "3", "--results", str(out)]
    )
    assert status == 0
    first, *later = json.loads(out.read_text())["results"]
    assert "verdict" not in first
    assert [entry["verdict"] for entry in later] == ["hard_negative"] * 2
    assert [entry["doubt"] for entry in later] == ["LOOK_ALIKE"] * 2
