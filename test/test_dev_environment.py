# SPDX-License-Identifier: Apache-2.0
"""The set-up of the development environment: what runs again, what is said when it fails."""

from __future__ import annotations

import importlib.util
import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

DEV = Path(__file__).resolve().parents[1] / "dev"


def load(name: str, path: Path):
    """Import a development tool, which lies outside every package, under a name of its own."""
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


steps = load("dev_environment_steps", DEV / "environment" / "steps.py")


class Recorder:
    """Counts the runs of a step that copies its input."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.source = folder / "source"
        self.result = folder / "result"
        self.source.write_text("one")
        self.runs = 0

    def run(self, log) -> None:
        self.runs += 1
        self.result.write_text(self.source.read_text())

    def step(self, **changes):
        given = {
            "name": "copy",
            "title": "copy a file",
            "run": self.run,
            "inputs": [self.source],
            "made": [self.result],
            "remedy": "Write the source.",
        }
        return steps.Step(**{**given, **changes})


@pytest.fixture
def recorder(tmp_path):
    return Recorder(tmp_path)


def test_a_finished_step_does_not_run_again(recorder, tmp_path):
    assert steps.run_steps([recorder.step()], tmp_path) == ["copy"]
    assert steps.run_steps([recorder.step()], tmp_path) == []
    assert recorder.runs == 1


def test_a_changed_input_runs_the_step_again(recorder, tmp_path):
    steps.run_steps([recorder.step()], tmp_path)
    recorder.source.write_text("two")
    assert steps.run_steps([recorder.step()], tmp_path) == ["copy"]
    assert recorder.result.read_text() == "two"


def test_a_missing_result_runs_the_step_again(recorder, tmp_path):
    steps.run_steps([recorder.step()], tmp_path)
    recorder.result.unlink()
    assert steps.run_steps([recorder.step()], tmp_path) == ["copy"]


def test_what_an_earlier_step_depends_on_counts_too(recorder, tmp_path):
    def both():
        first = recorder.step()
        return [first, recorder.step(name="later", inputs=[], after=[first])]

    assert steps.run_steps(both(), tmp_path) == ["copy", "later"]
    recorder.source.write_text("two")
    assert steps.run_steps(both(), tmp_path) == ["copy", "later"]
    assert steps.run_steps(both(), tmp_path) == []


def test_a_failed_step_names_log_and_remedy_and_runs_again(recorder, tmp_path):
    def fail(log):
        log.call([sys.executable, "-c", "print('the reason'); exit(3)"], os.environ, tmp_path)

    for _ in range(2):
        with pytest.raises(steps.StepError) as caught:
            steps.run_steps([recorder.step(run=fail)], tmp_path)
        for part in ("step 'copy'", "exited with 3", "the reason", "Write the source."):
            assert part in str(caught.value)
        assert str(tmp_path / "logs" / "copy.log") in str(caught.value)


def test_an_interrupted_step_runs_again(recorder, tmp_path):
    steps.run_steps([recorder.step()], tmp_path)
    recorder.source.write_text("two")

    def interrupted(log):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        steps.run_steps([recorder.step(run=interrupted)], tmp_path)
    recorder.source.write_text("one")  # the first stamp's key again, over a doubtful result
    assert steps.run_steps([recorder.step()], tmp_path) == ["copy"]


def test_a_step_that_makes_nothing_has_failed(recorder, tmp_path):
    with pytest.raises(steps.StepError, match="without making .*result"):
        steps.run_steps([recorder.step(run=lambda log: None)], tmp_path)


def test_a_program_that_is_not_there_is_named(recorder, tmp_path):
    def fail(log):
        log.call(["no-such-program"], os.environ, tmp_path)

    with pytest.raises(steps.StepError, match="cannot start no-such-program"):
        steps.run_steps([recorder.step(run=fail)], tmp_path)


def test_a_second_set_up_waits_for_the_first(tmp_path):
    code = (
        f"import sys; sys.path.insert(0, {str(DEV / 'environment')!r})\n"
        "from pathlib import Path\n"
        "import steps\n"
        f"with steps.locked(Path({str(tmp_path / 'lock')!r})):\n"
        "    print('entered', flush=True)\n"
    )
    with steps.locked(tmp_path / "lock"):
        second = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert f"process {os.getpid()}" in second.stdout.readline()
        # Nothing to read: it has not entered.
        assert select.select([second.stdout], [], [], 0.5)[0] == []
    assert second.communicate(timeout=60)[0].split() == ["entered"]


def test_run_without_a_command_tells_how_to_use_it():
    done = subprocess.run([DEV / "run"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "usage: dev/run COMMAND" in done.stderr


def test_run_hands_on_arguments_and_status():
    code = "import sys; print(sys.argv[1]); sys.exit(7)"
    done = subprocess.run(
        [DEV / "run", "python", "-c", code, "two words"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (7, "two words\n")


@pytest.mark.ros
def test_launch_arguments_are_read_as_by_ros2_launch():
    command = load("dev_launch_command", DEV / "ros2launch/ros2launch_standin/command.py")
    words = ["video:=synthetic", "box:=1,2,3,4", "video:=a:=b"]
    assert command.parse_arguments(words) == [("video", "a:=b"), ("box", "1,2,3,4")]
    with pytest.raises(ValueError, match="'video=synthetic': expected name:=value"):
        command.parse_arguments(["video=synthetic"])
    with pytest.raises(FileNotFoundError, match="tracker_ros' has no launch file 'none.launch.py"):
        command.find_launch_file("tracker_ros", ["none.launch.py"])
    with pytest.raises(FileNotFoundError, match="no launch file 'video:=x'"):
        command.find_launch_file("video:=x", [])


def test_a_linked_virtual_environment_is_never_cleared(tmp_path):
    owner, checkout = tmp_path / "owner", tmp_path / "checkout"
    (owner / "venv").mkdir(parents=True)
    (owner / "venv" / "kept").touch()
    (checkout / ".dev").mkdir(parents=True)
    (checkout / ".dev" / "venv").symlink_to(owner / "venv")
    code = (
        "from pathlib import Path\n"
        "from layout import Layout\n"
        "from steps import Log, StepError\n"
        "from underlay import Underlay\n"
        f"checkout = Path({str(checkout)!r})\n"
        "try:\n"
        "    Underlay(Layout(checkout)).create_venv(Log(checkout / 'log'))\n"
        "except StepError:\n"
        "    raise SystemExit(7)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=DEV / "environment", check=False)
    assert done.returncode == 7
    assert (owner / "venv" / "kept").exists()


def test_a_second_ros_needs_the_first_and_stands_beside_it(tmp_path):
    code = (
        "from pathlib import Path\n"
        "from layout import Layout\n"
        "from second_underlay import SecondUnderlay\n"
        "from steps import StepError\n"
        f"second = SecondUnderlay(Layout(Path({str(tmp_path)!r}), 'kilted'))\n"
        "try:\n"
        "    second.steps()\n"
        "except StepError:\n"
        "    second.first.packages.joinpath('rclpy').mkdir(parents=True)\n"
        "    second.files.mkdir(parents=True)\n"
        "    made = [path for step in second.steps() for path in step.made]\n"
        "    assert all(path.is_relative_to(second.layout.dev) for path in made)\n"
        "    assert 'export ROS_DISTRO=kilted' in second.exports()\n"
        "    raise SystemExit(7)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=DEV / "environment", check=False)
    assert done.returncode == 7


def test_run_names_the_setup_that_makes_an_environment():
    done = subprocess.run(
        [DEV / "run", "--distro", "none", "true"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "dev/setup --distro none" in done.stderr
