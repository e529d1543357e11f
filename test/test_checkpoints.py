# SPDX-License-Identifier: Apache-2.0
"""Weights as safetensors, and official checkpoints that are converted without running them."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import types
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

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


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_values_that_are_no_numbers_are_refused_when_read(tmp_path: Path, value, dtype) -> None:
    bad = torch.zeros(3, 4, dtype=dtype)
    bad[1, 2] = value
    path = tmp_path / "bad.safetensors"
    save_file({"good": torch.ones(2), "block.weight": bad}, path)
    with pytest.raises(ValueError, match=r"bad\.safetensors: .*block\.weight in 1 of 12"):
        read_weights(path)
    with pytest.raises(ValueError, match=r"new\.safetensors .*block\.weight in 1 of 12"):
        write_weights({"block.weight": bad}, tmp_path / "new.safetensors")
    assert not (tmp_path / "new.safetensors").exists()


def test_large_values_whose_sum_overflows_are_finite(tmp_path: Path) -> None:
    large = {"w": torch.full((100,), 3e38)}
    write_weights(large, tmp_path / "w.safetensors")
    assert torch.equal(read_weights(tmp_path / "w.safetensors")["w"], large["w"])


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64, torch.bool])
def test_strict_load_names_another_type(dtype) -> None:
    module = torch.nn.Linear(3, 2)
    state = {"weight": torch.zeros(2, 3, dtype=dtype), "bias": torch.zeros(2)}
    with pytest.raises(ValueError, match=r"w\.safetensors .*weight \w+ instead of float32") as no:
        load_strictly(module, state, "w.safetensors")
    assert len(str(no.value)) < 500


def quantised() -> torch.Tensor:
    return torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8)


@pytest.mark.parametrize(
    ("state", "named"),
    [
        ({"w": torch.ones(1).expand(10**9)}, "bytes"),
        ({f"w{i}": torch.ones(4096)[None].expand(50, -1) for i in range(3)}, "bytes"),
        ({"module.a": torch.ones(2), "a": torch.ones(2)}, r"\(?a"),
        ({"q": quantised()}, "quantised.*q"),
        ({"s": torch.eye(3).to_sparse()}, "s"),
        ({"m": torch.ones(3, device="meta")}, "m"),
        ({"c": torch.ones(3, dtype=torch.complex64)}, "complex.*c"),
        ({"n": torch.tensor([1.0, float("nan")])}, "n in 1 of 2"),
        ({}, "OrderedDict|dict"),
    ],
)
def test_a_checkpoint_that_cannot_be_converted_is_refused(tmp_path: Path, state, named) -> None:
    path, out = tmp_path / "odd.pth", tmp_path / "out.safetensors"
    torch.save(state, path)
    with pytest.raises(ValueError, match=named) as refusal:
        convert_checkpoint(path, out)
    assert str(path.name) in str(refusal.value) or "out.safetensors" in str(refusal.value)
    assert not out.exists()


def test_shared_tensors_are_converted_whole(tmp_path: Path) -> None:
    table = torch.arange(6.0).view(2, 3)
    torch.save({"a": table, "b": table, "c": table.t()}, tmp_path / "tied.pth")
    convert_checkpoint(tmp_path / "tied.pth", tmp_path / "tied.safetensors")
    found = read_weights(tmp_path / "tied.safetensors")
    assert torch.equal(found["a"], found["b"])
    assert torch.equal(found["c"], table.t())


def test_what_does_not_fit_half_precision_is_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.tensor([1.0, 70_000.0])}, tmp_path / "large.pth")
    out = tmp_path / "out.safetensors"
    with pytest.raises(ValueError, match=r"w in 1 of 2"):
        convert_checkpoint(tmp_path / "large.pth", out, half=True)
    assert not out.exists()
    convert_checkpoint(tmp_path / "large.pth", out)
    assert read_weights(out)["w"][1] == 70_000


def test_a_compressed_checkpoint_is_not_unpacked(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1_000_000)}, tmp_path / "plain.pth")
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as plain,
        zipfile.ZipFile(tmp_path / "small.pth", "w", zipfile.ZIP_DEFLATED) as small,
    ):
        for name in plain.namelist():
            small.writestr(name, plain.read(name))
    with pytest.raises(ValueError, match=r"small\.pth is compressed"):
        read_checkpoint(tmp_path / "small.pth")


def test_a_checkpoint_is_never_its_own_output(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(STATE, path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="checkpoint"):
        convert_checkpoint(path, path)
    assert path.read_bytes() == before
