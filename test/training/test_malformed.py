# SPDX-License-Identifier: Apache-2.0
"""Recipes, checkpoints and folders that are wrong: one line with name and remedy, no traceback."""

from __future__ import annotations

import argparse
import signal
from dataclasses import replace

import pytest
import torch

from tracker_ros.cli.main import main
from tracker_ros.process import EndRequest
from tracker_ros.training import trainer as trainer_module
from tracker_ros.training.trainer import Trainer, hold_folder, read_log, train_command

from .conftest import CPU, RECIPES

PAIRS = RECIPES["pairs"]
TEXTS = {
    "no YAML": "steps: [",
    "a tab": "steps:\t10\n\tbatch_size: 2",
    "several documents": "steps: 10\n---\nsteps: 20",
    "an unknown tag": "model: !!python/object/apply:os.getcwd []",
    "an unknown alias": "model: *model",
    "a list as key": "? [1]\n: 2",
    "endless nesting": "[" * 5000,
    "many copies": "a: &a [x]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}, *{chr(97 + i)}]\n" for i in range(20)
    ),
    "a bare word": "train",
    "no numbers": "steps: ten",
    "no check": "validate_every: 0",
    "a negative check": "validate_every: -1",
    "no samples": "validation_samples: 0",
    "no steps": "steps: 0\nwarmup_steps: 0\ndecay_steps: 0",
    "endless steps": "steps: 1" + "0" * 400,
    "a huge rate": "learning_rate: 1" + "0" * 400,
    "a negative rate": "learning_rate: -1",
    "an infinite rate": "learning_rate: .inf",
    "a negative seed": "seed: -1",
    "negative workers": "loader_workers: -2",
    "an epoch of nothing": "steps_per_epoch: 0",
    "decay above one": "average_decay: 1.5",
    "a fraction above one": "pairs: {absent_fraction: 2}",
    "no crops": "clips: {train_crops: 0}",
    "one frame": "frames: {frames: 1}",
    "no size": "frames: {size: 0}",
    "a negative weight": "sources: [{weight: -1}]",
    "an unknown model": "model: ostrack_tyni",
    "an unknown source": "sources: [{kind: imagenet}]",
    "a bank that is not there": "sources: [{path: /nowhere.npz}]",
    "weights that are not there": "start_from: /nowhere.safetensors",
}  # fmt: skip


@pytest.mark.parametrize("what", TEXTS)
def test_a_malformed_recipe_is_one_line(tmp_path, capsys, what):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(TEXTS[what] + "\n")
    assert main(["train", str(recipe), "--out", str(tmp_path / "run"), "--device", "cpu"]) == 2
    _assert_one_line(capsys.readouterr().err)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00\x00", b"steps: 10\n\x00", b"\x80abc"])
def test_a_recipe_that_is_no_text_is_one_line(tmp_path, capsys, content):
    recipe = tmp_path / "mine.yaml"
    recipe.write_bytes(content)
    assert main(["train", str(recipe), "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    _assert_one_line(error)
    assert "mine.yaml" in error


def _assert_one_line(error: str) -> None:
    (line,) = error.strip().splitlines()
    assert line.startswith("tracker-ros train: error: ")
    assert len(line) < 1200


def _broken(state, what):
    """Return a checkpoint that is wrong in one way."""
    changed = dict(state)
    name = next(iter(state["network"]))
    if what == "lacks the step":
        del changed["step"]
    elif what == "a step that is no number":
        changed["step"] = "two"
    elif what == "a negative step":
        changed["step"] = -1
    elif what == "lacks a tensor":
        changed["network"] = {k: v for k, v in state["network"].items() if k != name}
    elif what == "a tensor of another shape":
        changed["network"] = {**state["network"], name: torch.zeros(1, 2, 3)}
    elif what == "a tensor of another type":
        changed["average"] = {**state["average"], name: state["average"][name].double()}
    elif what == "text in place of a tensor":
        changed["network"] = {**state["network"], name: "weights"}
    elif what == "another optimiser":
        changed["optimiser"] = {"state": {}, "param_groups": []}
    return changed


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, micro_models):
    """The checkpoint of a run that has not begun."""
    folder = tmp_path_factory.mktemp("good")
    Trainer(PAIRS, folder, CPU).save()
    return torch.load(folder / "checkpoint.pt", weights_only=True)


@pytest.mark.parametrize(
    "what",
    [
        "lacks the step",
        "a step that is no number",
        "a negative step",
        "lacks a tensor",
        "a tensor of another shape",
        "a tensor of another type",
        "text in place of a tensor",
        "another optimiser",
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path, checkpoint, what):
    torch.save(_broken(checkpoint, what), tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match=r"checkpoint\.pt .*--out") as refusal:
        Trainer(PAIRS, tmp_path, CPU)
    assert len(str(refusal.value)) < 1200


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04", b"no checkpoint", b"\x80\x02}q\x00.", b"{}"]
)
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path, content):
    (tmp_path / "checkpoint.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"checkpoint\.pt .*--out"):
        Trainer(PAIRS, tmp_path, CPU)
    assert (tmp_path / "checkpoint.pt").read_bytes() == content


@pytest.mark.parametrize("content", [[1, 2], "text", 3])
def test_a_foreign_checkpoint_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match=r"checkpoint\.pt .*--out"):
        Trainer(PAIRS, tmp_path, CPU)


def test_a_folder_that_cannot_be_written_is_noticed_first(tmp_path):
    (tmp_path / "run").write_text("a file in the way")
    with pytest.raises(OSError, match="run/checkpoint"):
        Trainer(PAIRS, tmp_path / "run", CPU)


def test_a_second_run_in_the_same_folder_is_refused(tmp_path, capsys):
    recipe, folder = tmp_path / "mine.yaml", tmp_path / "run"
    recipe.write_text("model: ostrack_micro\nsteps: 1\nwarmup_steps: 0\ndecay_steps: 0\n")
    with hold_folder(folder):
        assert main(["train", str(recipe), "--out", str(folder), "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    _assert_one_line(error)
    assert str(folder) in error
    assert [path.name for path in folder.iterdir()] in ([], [".lock"]), "nothing was begun"
    with hold_folder(folder):  # which the first run has left
        pass


def test_damaged_lines_of_a_log_are_left_out(tmp_path):
    log = tmp_path / "log.jsonl"
    assert read_log(log) == []
    lines = ['{"step": 2, "a": 1}', "[1]", "7", "null", '{"step": "x"}', '{"a": 1}', '{"step": 4']
    log.write_text("\n".join(lines))
    assert read_log(log) == [{"step": 2, "a": 1}]


def test_a_signal_saves_the_run_after_the_present_step(tmp_path):
    trainer, end = Trainer(PAIRS, tmp_path, CPU), EndRequest()
    step = trainer._train_step

    def signalled(batch):
        end.signal = signal.SIGTERM
        return step(batch)

    trainer._train_step = signalled
    trainer.run(end)
    assert (trainer.step, end.status) == (1, 143)
    assert Trainer(PAIRS, tmp_path, CPU).step == 1


@pytest.mark.parametrize("named", ["recipe", "start_from"])
def test_a_run_never_writes_over_what_it_reads(tmp_path, named):
    folder = tmp_path / "run"
    folder.mkdir()
    weights = folder / "ostrack_micro.safetensors"
    weights.write_bytes(b"precious")
    recipe = tmp_path / "mine.yaml" if named == "start_from" else folder / "log.jsonl"
    start = f"start_from: {weights}\n" if named == "start_from" else ""
    recipe.write_text(f"model: ostrack_micro\nsteps: 1\nwarmup_steps: 0\ndecay_steps: 0\n{start}")
    before = recipe.read_text()
    arguments = argparse.Namespace(recipe=recipe, out=folder, device="cpu")
    with pytest.raises(ValueError, match=r"--out"):
        train_command(arguments)
    assert weights.read_bytes() == b"precious"
    assert recipe.read_text() == before


def test_a_full_disk_keeps_the_earlier_checkpoint(tmp_path, monkeypatch):
    trainer = Trainer(replace(PAIRS, steps=4), tmp_path, CPU)
    trainer.save()
    before = (tmp_path / "checkpoint.pt").read_bytes()

    def full(state, path):
        path.write_bytes(b"half")
        raise RuntimeError("PytorchStreamWriter failed writing file: file write failed")

    monkeypatch.setattr(trainer_module.torch, "save", full)
    with pytest.raises(OSError, match=r"checkpoint\.pt"):
        trainer.save()
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]
