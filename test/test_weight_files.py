# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tracker_ros.checkpoints import load_strictly, read_weights, sha256_of, write_weights

STATE = {
    "weight": torch.arange(6.0).view(2, 3),
    "bias": torch.tensor([0.5, -0.25]),
    "count": torch.tensor(7),
}


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


def test_missing_file_is_named(tmp_path: Path) -> None:
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
