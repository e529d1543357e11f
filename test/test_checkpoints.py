# SPDX-License-Identifier: Apache-2.0
"""Weights as safetensors, and official checkpoints that are converted without running them."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import types
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from tracker_ros.checkpoints import (
    convert_checkpoint,
    load_strictly,
    read_checkpoint,
    read_weights,
    sha256_of,
    write_weights,
)
from tracker_ros.models.one_stream.config import OSTRACK_TINY
from tracker_ros.models.one_stream.ostrack import OSTrackNetwork
from tracker_ros.registry import matching_models

MAKER = Path(__file__).parent / "parity" / "goldens" / "make_tiny_checkpoint.py"
STATE = {
    "weight": torch.arange(6.0).view(2, 3),
    "bias": torch.tensor([0.5, -0.25]),
    "count": torch.tensor(7),
}


@contextmanager
def pretended(*names: str) -> Iterator[type]:
    """Pretend that modules exist, the last of which has a class Settings, which is returned."""
    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            module = types.ModuleType(name)
            patch.setitem(sys.modules, name, module)
        module.Settings = type("Settings", (), {"__module__": names[-1]})
        yield module.Settings


class Runs:
    """A pickle of this touches a file when it is unpickled carelessly."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.fixture
def official(tmp_path: Path) -> Path:
    """A checkpoint with the outer layout of an official one, made where its classes exist."""
    path = tmp_path / "OSTrack_ep0300.pth.tar"
    subprocess.run([sys.executable, str(MAKER), str(path)], check=True)
    return path


def test_official_layout_is_converted_without_its_classes(official: Path, tmp_path: Path) -> None:
    with pytest.raises(pickle.UnpicklingError):
        torch.load(official, weights_only=True)
    before = set(sys.modules)
    sha256, state = convert_checkpoint(official, tmp_path / "w.safetensors")
    assert not [m for m in set(sys.modules) - before if m.split(".")[0] == "lib"]

    found = read_weights(tmp_path / "w.safetensors", sha256)
    sys.path.insert(0, str(MAKER.parent))
    try:
        import make_tiny_checkpoint
        from seeded_state import seeded_state_dict
    finally:
        sys.path.remove(str(MAKER.parent))
    wanted = seeded_state_dict(make_tiny_checkpoint.SHAPES, 1)
    assert set(found) == set(wanted)
    for key, value in wanted.items():
        torch.testing.assert_close(found[key], torch.from_numpy(value).reshape(value.shape))
    assert set(state) == set(wanted)
    assert matching_models(state) == ()


def test_the_malicious_pickle_of_these_tests_does_run_when_loaded_carelessly(
    tmp_path: Path,
) -> None:
    torch.save({"net": Runs(tmp_path / "ran")}, tmp_path / "bad.pth.tar")
    torch.load(tmp_path / "bad.pth.tar", weights_only=False)
    assert (tmp_path / "ran").exists()


formats = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])


@formats
@pytest.mark.parametrize("place", ["beside the tensors", "among them"])
def test_malicious_pickle_is_refused_and_does_not_run(
    tmp_path: Path, place: str, zipped: bool
) -> None:
    net = {"a": torch.zeros(2)}
    content = {"net": net, "settings": None}
    (content if place == "beside the tensors" else net)["settings"] = Runs(tmp_path / "ran")
    torch.save(content, tmp_path / "bad.pth.tar", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"names \w+\.system, which tensors do not need"):
        convert_checkpoint(tmp_path / "bad.pth.tar", tmp_path / "w.safetensors")
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "w.safetensors").exists()


def test_placeholders_stay_inert_whatever_a_known_package_name_hides(tmp_path: Path) -> None:
    """A name of a known package is never imported, even where such a module exists."""
    with pretended("lib") as settings:
        torch.save({"net": {"a": torch.zeros(2)}, "s": settings()}, tmp_path / "c")
    module = tmp_path / "lib.py"
    module.write_text(f"open({str(tmp_path / 'imported')!r}, 'w')\nclass Settings: pass\n")
    sys.path.insert(0, str(tmp_path))
    try:
        assert set(read_checkpoint(tmp_path / "c")) == {"a"}
    finally:
        sys.path.remove(str(tmp_path))
    assert not (tmp_path / "imported").exists()


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s}, lambda s: {"net": s}])
def test_tensors_are_found_and_prefixes_removed(tmp_path: Path, wrap) -> None:
    torch.save(wrap({"module.a.weight": torch.ones(2)}), tmp_path / "c.pth")
    assert list(read_checkpoint(tmp_path / "c.pth")) == ["a.weight"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list; expected tensors by name"),
        ({}, "holds a dict"),
        ({"epoch": 3}, r"values that are not tensors \(epoch\)"),
    ],
)
def test_files_without_tensors_are_named(tmp_path: Path, content, message: str) -> None:
    torch.save(content, tmp_path / "c.pth")
    with pytest.raises(ValueError, match=message):
        read_checkpoint(tmp_path / "c.pth")


def test_bare_pickle_is_refused_unread(tmp_path: Path) -> None:
    (tmp_path / "c.pth").write_bytes(pickle.dumps(Runs(tmp_path / "ran")))
    with pytest.raises(ValueError, match="not a file of torch.save"):
        read_checkpoint(tmp_path / "c.pth")
    assert not (tmp_path / "ran").exists()


@formats
def test_checkpoint_with_objects_of_a_research_package_is_read(
    tmp_path: Path, zipped: bool
) -> None:
    """TrDiMP's checkpoint has `net` beside the constructor, settings and statistics."""
    with pretended("ltr", "ltr.admin", "ltr.admin.settings") as Settings:  # noqa: N806
        settings = Settings()
        settings.stats = OrderedDict(a=[1.5])
        net = OrderedDict(w=torch.arange(6.0).reshape(2, 3), n=torch.ones(1))
        content = {"epoch": 50, "net": net, "settings": settings, "constructor": settings}
        torch.save(content, tmp_path / "c.pth.tar", _use_new_zipfile_serialization=zipped)
    found = read_checkpoint(tmp_path / "c.pth.tar")
    assert {key: value.tolist() for key, value in found.items()} == {
        "w": [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]],
        "n": [1.0],
    }


@formats
def test_a_truncated_checkpoint_is_named(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "c.pth"
    torch.save({"net": {"a": torch.zeros(999)}}, path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"checkpoint c\.pth (is not a file|cannot be read)"):
        read_checkpoint(path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.pth does not exist"):
        read_checkpoint(tmp_path / "none.pth")


def test_the_model_that_fits_is_named(tmp_path: Path) -> None:
    torch.save({"net": OSTrackNetwork(OSTRACK_TINY).state_dict()}, tmp_path / "c.pth")
    _, state = convert_checkpoint(tmp_path / "c.pth", tmp_path / "w.safetensors", half=True)
    assert matching_models(state) == ("ostrack_tiny",)


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "w.safetensors"
    digest = write_weights(STATE, path)
    assert digest == sha256_of(path)
    found = read_weights(path, digest)
    assert set(found) == set(STATE)
    for key, value in STATE.items():
        torch.testing.assert_close(found[key], value)
    assert [p.name for p in path.parent.iterdir()] == ["w.safetensors"]


def test_half_is_storage_only(tmp_path: Path) -> None:
    large = {"w": torch.linspace(-1, 1, 10_000), "count": torch.tensor(7)}
    write_weights(large, tmp_path / "full.safetensors")
    write_weights(large, tmp_path / "half.safetensors", half=True)
    sizes = [(tmp_path / f"{n}.safetensors").stat().st_size for n in ("full", "half")]
    assert sizes[1] < 0.6 * sizes[0]
    found = read_weights(tmp_path / "half.safetensors")
    assert found["w"].dtype == torch.float32
    assert found["count"].dtype == torch.int64
    torch.testing.assert_close(found["w"], large["w"], rtol=1e-3, atol=1e-6)


def test_failed_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(AttributeError):
        write_weights({"w": "no tensor"}, tmp_path / "w.safetensors")  # type: ignore[dict-item]
    assert list(tmp_path.iterdir()) == []


def test_wrong_sha256_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    digest = write_weights(STATE, path)
    with pytest.raises(ValueError, match=f"has sha256 {digest}; expected 0000"):
        read_weights(path, "0000")


def test_a_missing_weights_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors does not exist"):
        read_weights(tmp_path / "none.safetensors")


def test_a_pickle_is_not_read_and_the_remedy_named(tmp_path: Path) -> None:
    path = tmp_path / "OSTrack_ep0300.pth.tar"
    torch.save(STATE, path)
    with pytest.raises(ValueError, match="convert-checkpoint OSTrack_ep0300.pth.tar"):
        read_weights(path)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00notjson!")
    with pytest.raises(ValueError, match="is not a readable safetensors file"):
        read_weights(path)


def test_strict_load_names_every_kind_of_misfit() -> None:
    module = torch.nn.Linear(3, 2)
    state = {"weight": torch.zeros(2, 4), "other": torch.zeros(1)}
    with pytest.raises(ValueError, match="do not fit Linear") as error:
        load_strictly(module, state, "w.safetensors")
    message = str(error.value)
    assert "1 missing (bias)" in message
    assert "1 unexpected (other)" in message
    assert "weight (2, 4) instead of (2, 3)" in message


def test_strict_load_fills_a_module_on_the_meta_device() -> None:
    with torch.device("meta"):
        module = torch.nn.Linear(3, 2)
    load_strictly(module, {key: STATE[key] for key in ("weight", "bias")}, "w")
    torch.testing.assert_close(module.weight.detach(), STATE["weight"])
