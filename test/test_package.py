# SPDX-License-Identifier: Apache-2.0
"""The package as colcon, rosdep, pip and ROS see it."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = {
    *("track", "video", "select_target", "tracker-ros"),
    *("console", "hog_people", "ibvs", "mavlink_bridge"),
}
MANIFESTS = [ROOT / "package.xml", ROOT / "tracker_interfaces" / "package.xml"]
# Keys that rosdep resolves on Humble, Jazzy, Kilted and Lyrical alike. None of pip's: they would
# bring a generic PyTorch to boards that need their own.
ROSDEP_KEYS = {
    "ament_cmake",
    "builtin_interfaces",
    "diagnostic_msgs",
    "diagnostic_updater",
    "geometry_msgs",
    "launch",
    "launch_ros",
    "launch_testing",
    "launch_testing_ros",
    "lifecycle_msgs",
    "python3-filelock",
    "python3-numpy",
    "python3-opencv",
    "python3-platformdirs",
    "python3-pytest",
    "python3-tqdm",
    "python3-yaml",
    "rclpy",
    "ros2launch",
    "rosidl_default_generators",
    "rosidl_default_runtime",
    "sensor_msgs",
    "std_msgs",
    "std_srvs",
    "tf2_msgs",
    "tf2_ros_py",
    "tracker_interfaces",
    "vision_msgs",
    "visualization_msgs",
}
LARGEST_FILE = 20 * 1024 * 1024
SPDX = "SPDX-License-Identifier: Apache-2.0"
WITH_SPDX = {".py", ".sh", ".msg", ".srv", ".xml", ".yaml", ".yml", ".toml", ".cu", ".cuh"}


def run(*command: str, cwd: Path = ROOT) -> str:
    """Return what a command printed; fail with its errors if it fails."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def tracked_files() -> list[Path]:
    """Return the files that git tracks and that are there."""
    names = run("git", "ls-files", "-z").split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def setup_arguments() -> dict:
    """Return what setup.py hands to setuptools."""
    code = (
        "import json, runpy, setuptools\n"
        "setuptools.setup = lambda **given: print(json.dumps(given))\n"
        f"runpy.run_path({str(ROOT / 'setup.py')!r})\n"
    )
    return json.loads(run(sys.executable, "-c", code))


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.parent.name)
def test_dependencies_are_keys_of_every_supported_distribution(path):
    root = ElementTree.parse(path).getroot()
    named = {node.text for node in root if node.tag.endswith("depend")}
    assert named - ROSDEP_KEYS == set()


def test_what_the_nodes_import_is_a_dependency():
    root = ElementTree.parse(MANIFESTS[0]).getroot()
    named = {node.text for node in root if node.tag in ("depend", "exec_depend")}
    imported = set()
    for path in [*ROOT.glob("tracker_ros/nodes/**/*.py"), *ROOT.glob("launch/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.split(".")[0])
            elif isinstance(node, ast.Import):
                imported.update(alias.name.split(".")[0] for alias in node.names)
    of_ros = {
        name for name in imported if name in ROSDEP_KEYS or name.endswith(("_msgs", "_srvs"))
    }
    assert "rclpy" in of_ros
    assert of_ros - named == set()


DISTRIBUTIONS = {
    "cuda": "cuda-bindings",
    "cv2": "opencv-python-headless",
    "rosbags": "rosbags",
    "serial": "pyserial",
    "skimage": "scikit-image",
    "tensorrt": None,  # comes with JetPack or from NVIDIA
    "trax": "vot-trax",
    "yaml": "pyyaml",
}
"""Distributions whose name is not that of their module."""


def test_what_the_package_imports_is_installed_by_pip():
    given = setup_arguments()
    declared = [*given["install_requires"], *sum(given["extras_require"].values(), [])]
    names = {re.match(r"[\w-]+", text).group() for text in declared}
    imported = set()
    for path in (ROOT / "tracker_ros").rglob("*.py"):
        if "nodes" not in path.relative_to(ROOT).parts:
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    imported.add(node.module.split(".")[0])
                elif isinstance(node, ast.Import):
                    imported.update(alias.name.split(".")[0] for alias in node.names)
    foreign = imported - set(sys.stdlib_module_names) - {"tracker_ros"}
    assert {"torch", "cv2", "safetensors", "platformdirs", "filelock"} <= foreign
    assert {DISTRIBUTIONS.get(name, name) for name in foreign} - names - {None} == set()
    base = {re.match(r"[\w-]+", text).group() for text in given["install_requires"]}
    assert base >= {"numpy", "onnxruntime", "opencv-python-headless", "safetensors", "filelock"}
    assert "torch" not in base


def test_versions_agree():
    versions = {ElementTree.parse(path).getroot().findtext("version") for path in MANIFESTS}
    assert len(versions) == 1
    assert setup_arguments()["version"] in versions
    assert importlib.import_module("tracker_ros").__version__ in versions


def test_maintainer_and_licence_agree():
    fields = {
        (
            root.find("maintainer").get("email"),
            root.findtext("maintainer"),
            root.findtext("license"),
        )
        for root in (ElementTree.parse(path).getroot() for path in MANIFESTS)
    }
    assert len(fields) == 1
    given = setup_arguments()
    assert {(given["maintainer_email"], given["maintainer"], given["license"])} == fields
    assert (ROOT / "LICENSE").read_text(encoding="utf-8").split()[:2] == ["Apache", "License"]


def test_scripts_go_where_ros2_run_looks():
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    assert config["install"]["install_scripts"] == "$base/lib/tracker_ros"
    assert config["develop"]["script_dir"] == "$base/lib/tracker_ros"


def test_entry_points_can_be_called():
    scripts = setup_arguments()["entry_points"]["console_scripts"]
    names = {line.split("=")[0].strip() for line in scripts}
    assert names == PROGRAMS
    for line in scripts:
        module, function = line.split("=")[1].strip().split(":")
        assert callable(getattr(importlib.import_module(module), function)), line
        # A signal that comes while ROS is imported then ends the program in silence.
        assert not module.startswith("tracker_ros.nodes") or module == "tracker_ros.nodes.start"


def test_every_python_folder_is_installed():
    packages = set(setup_arguments()["packages"])
    folders = {path.parent for path in (ROOT / "tracker_ros").rglob("*.py")}
    assert {".".join(folder.relative_to(ROOT).parts) for folder in folders} == packages


def test_data_files_are_installed():
    given = {name for _, names in setup_arguments()["data_files"] for name in names}
    for folder in ("launch", "config", "recipes"):
        tracked = {
            str(path.relative_to(ROOT)) for path in tracked_files() if path.parent == ROOT / folder
        }
        assert tracked <= given
    assert {"package.xml", "resource/tracker_ros", "launch/track.launch.py"} <= given


@pytest.mark.ros
def test_interfaces_have_the_documented_fields():
    from tracker_interfaces.msg import TargetStatus, TargetStatusArray
    from tracker_interfaces.srv import RemoveTarget, SelectTarget

    counters = [
        f"frames_{name}" for name in ["received", "tracked", "dropped", "rejected", "idle"]
    ]
    times = ["seconds_since_seen", "latency", "processing_time"]
    about = ["header", "state", "target_id", "label", "score", "doubt"]
    assert fields_of(TargetStatus) == [*about, *times, *counters]
    assert fields_of(TargetStatusArray) == ["header", *counters, "statuses"]
    assert fields_of(SelectTarget.Request) == ["header", "bbox", "label", "append"]
    answer = ["code", "success", "message"]
    assert fields_of(SelectTarget.Response) == [*answer, "target_id", "stamp"]
    assert fields_of(RemoveTarget.Request) == ["target_id"]
    assert fields_of(RemoveTarget.Response) == answer


def fields_of(kind: type) -> list[str]:
    """Return the names of a message's fields in their order."""
    return list(kind.get_fields_and_field_types())


@pytest.mark.ros
def test_ros_lists_the_programs():
    lines = run("ros2", "pkg", "executables", "tracker_ros").split("\n")
    assert {line.split()[1] for line in lines if line} == PROGRAMS


@pytest.mark.ros
def test_ros_finds_launch_file_and_configuration():
    from ament_index_python.packages import get_package_share_directory

    share = Path(get_package_share_directory("tracker_ros"))
    for name in ("launch/track.launch.py", "config/track.yaml", "package.xml"):
        assert (share / name).read_bytes() == (ROOT / name).read_bytes()


@pytest.mark.ros
def test_launch_file_tells_its_arguments():
    shown = run("ros2", "launch", "tracker_ros", "track.launch.py", "--show-args")
    words = ["namespace", "params_file", "image_topic", "model", "debug_rate", "autostart", "box"]
    assert [word for word in words if f"'{word}':" not in shown] == []


@pytest.mark.ros
@pytest.mark.slow
def test_documented_build_works_in_a_copy(tmp_path):
    archive = tmp_path / "checkout.tar"
    names = [str(path.relative_to(ROOT)) for path in tracked_files()]
    listed = tmp_path / "names"
    listed.write_text("\0".join(names))
    run("tar", "--null", "-cf", str(archive), "-T", str(listed))
    copy = tmp_path / "tracker_ros"
    copy.mkdir()
    run("tar", "-xf", str(archive), "-C", str(copy))

    # The README's own line.
    run("colcon", "build", "--base-paths", ".", "tracker_interfaces", cwd=copy)

    # Found by what a user sources, without the development workspace on any path.
    env = {
        name: os.pathsep.join(
            part
            for part in value.split(os.pathsep)
            if f"{os.sep}.dev{os.sep}workspace" not in part
        )
        for name, value in os.environ.items()
    }
    script = (
        "source install/setup.bash && cd .. && ros2 pkg executables tracker_ros && "
        "python -c 'import tracker_ros, tracker_interfaces.srv as s; "
        "print(tracker_ros.__file__, s.__file__)'"
    )
    done = subprocess.run(
        ["bash", "-c", script], cwd=copy, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    *listing, modules = done.stdout.strip().split("\n")
    assert {line.split()[1] for line in listing} == PROGRAMS
    assert all(name.startswith(str(copy / "install")) for name in modules.split())
    weights = [path for path in tracked_files() if path.parent.name == "weights"]
    installed = {path.name for path in (copy / "install").rglob("weights/*")}
    assert {path.name for path in weights} <= installed


def test_no_large_file_is_tracked():
    sizes = {path: path.stat().st_size for path in tracked_files()}
    assert {str(path): size for path, size in sizes.items() if size > LARGEST_FILE} == {}


def test_every_source_file_names_its_licence():
    def is_source(path: Path) -> bool:
        if path.suffix in WITH_SPDX:
            return True
        return not path.suffix and path.read_bytes()[:2] == b"#!"

    sources = [path for path in tracked_files() if is_source(path)]
    assert len(sources) > 20
    without = [
        str(path.relative_to(ROOT))
        for path in sources
        if SPDX not in path.read_text(encoding="utf-8")[:400]
    ]
    assert without == []
