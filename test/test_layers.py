# SPDX-License-Identifier: Apache-2.0
"""The package's layers, and how large it may be.

`LAYERS` lists the package from top to bottom: a part imports only parts below its own, anywhere in
its files. Beside them stand the parts that do not run on a robot (`OFFLINE`): they import whatever
they need, and nothing imports them except each other and the commands that are about them. ROS is
known to `nodes` alone; `following`, `io` and `drawing` do without torch.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "tracker_ros"
SOURCES = sorted(PACKAGE.rglob("*.py"))
LAYERS = (
    {"nodes", "cli"},
    {"video_tracking", "bags"},
    {"registry", "drawing", "mavlink", "console"},
    {"following", "model_cards", "spatial"},
    {"models"},
    {"engines"},
    {"cuda", "io", "checkpoints", "crops", "tracker", "model_options"},
    {"arrays", "geometry", "masks", "cache", "calibration"},
    {"output_files"},
    {"process", "quoting", "visual_servoing"},
)
"""From top to bottom: folders and modules of tracker_ros."""
OFFLINE = {"training", "evaluation", "synthetic"}
MAY_IMPORT_OFFLINE = {
    "tracker_ros.cli.bag",
    "tracker_ros.cli.compare",
    "tracker_ros.cli.evaluate",
    "tracker_ros.cli.evaluation_report",
    "tracker_ros.cli.models",
}
# Modules that only nodes/ may import: ROS's client library, its messages, its tools.
ROS_MODULES = {
    "ament_index_python",
    "cv_bridge",
    "diagnostic_updater",
    "launch",
    "launch_ros",
    "message_filters",
    "rclpy",
    "rcl_interfaces",
    "rosidl_runtime_py",
    "std_srvs",
    "tf2_ros",
    "tracker_interfaces",
}
WITHOUT_TORCH = {"following", "io", "drawing", "spatial", "bags"}
MAX_FILES, MAX_LINES, MAX_FILES_PER_FOLDER = 253, 42_850, 20


def module_of(path: Path) -> str:
    """Return the dotted name of a source file, packages by their folder."""
    relative = path.relative_to(PACKAGE.parent).with_suffix("")
    parts = relative.parts[:-1] if relative.name == "__init__" else relative.parts
    return ".".join(parts)


def part_of(module: str) -> str:
    """Return the folder or module of tracker_ros that a module is in; "" for the package."""
    return module.partition(".")[2].partition(".")[0]


def height_of(part: str) -> int | None:
    """Return how many layers are below a part; None if it is in none."""
    return next((len(LAYERS) - i for i, layer in enumerate(LAYERS) if part in layer), None)


def imports_of(source: str, module: str, *, is_package: bool) -> Iterator[str]:
    """Yield the absolute name of every module that ``source`` imports, anywhere in it.

    ``from a import b`` yields both ``a`` and ``a.b``, as b may be a module. String literals handed
    to import_module count too.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                drop = node.level - 1 if is_package else node.level
                parents = module.split(".")
                parents = parents[: len(parents) - drop]
                base = ".".join([*parents, base] if base else parents)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args:
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            first = node.args[0]
            if called in ("import_module", "__import__") and isinstance(first, ast.Constant):
                yield str(first.value)


def violations(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """Return the imports of ``source`` that break a rule, as 'module imports name: why'."""
    found = []
    part = part_of(module)
    for name in imports_of(source, module, is_package=is_package):
        top = name.split(".")[0]
        if part != "nodes" and (top in ROS_MODULES or top.endswith("_msgs")):
            found.append(f"{module} imports {name}: only tracker_ros.nodes may know of ROS")
        elif part in WITHOUT_TORCH and top == "torch":
            found.append(f"{module} imports {name}: this part does without torch")
        elif top == "tracker_ros" and part_of(name) not in ("", part):
            found += [f"{module} imports {name}: {why}" for why in _why_not(module, part_of(name))]
    return found


def _why_not(module: str, imported: str) -> Iterator[str]:
    """Yield why a module may not import a part of the package."""
    part = part_of(module)
    if imported in OFFLINE:
        if part not in OFFLINE and module not in MAY_IMPORT_OFFLINE:
            yield "that does not run on a robot"
        return
    own, other = height_of(part), height_of(imported)
    if part and part not in OFFLINE and own is not None and other is not None and other >= own:
        yield "that is no layer below"


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_no_file_imports_upward(path):
    source = path.read_text(encoding="utf-8")
    assert violations(source, module_of(path), is_package=path.name == "__init__.py") == []


def test_every_part_has_a_place():
    parts = {part_of(module_of(path)) for path in SOURCES} - {""}
    placed = Counter([*OFFLINE, *(part for layer in LAYERS for part in layer)])
    assert parts == set(placed)
    assert max(placed.values()) == 1


def test_the_package_is_small_enough_to_know():
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES)
    per_folder = Counter(path.parent.relative_to(PACKAGE).as_posix() for path in SOURCES)
    crowded = {name: count for name, count in per_folder.items() if count > MAX_FILES_PER_FOLDER}
    assert crowded == {}
    assert len(SOURCES) <= MAX_FILES
    assert lines <= MAX_LINES


def test_no_two_files_are_named_video():
    assert [module_of(path) for path in SOURCES if path.name == "video.py"] == [
        "tracker_ros.nodes.video"
    ]


@pytest.mark.parametrize(
    ("source", "module"),
    [
        ("import rclpy", "tracker_ros.tracker"),
        ("def f():\n    from sensor_msgs.msg import Image", "tracker_ros.io.sources"),
        ("from tracker_ros.nodes import track", "tracker_ros.io.sources"),
        ("from tracker_ros import nodes", "tracker_ros.models.layers.vit"),
        ("from .nodes.track import main", "tracker_ros.registry"),
        ("from ...nodes import track", "tracker_ros.models.layers.vit"),
        ("importlib.import_module('tracker_ros.nodes.track')", "tracker_ros.registry"),
        ("from tracker_ros.engines import graph", "tracker_ros.cuda.prroi_pool"),
        ("from ..models import vit", "tracker_ros.engines.graph"),
        ("from tracker_ros.following import follower", "tracker_ros.engines.select_backend"),
        ("from tracker_ros.cli import main", "tracker_ros.nodes.track"),
        ("def f():\n    import torch", "tracker_ros.following.follower"),
        (
            "def f():\n    from tracker_ros.synthetic import render",
            "tracker_ros.models.mast.export",
        ),
        ("from tracker_ros.training import trainer", "tracker_ros.cli.track"),
        ("from tracker_ros.evaluation import ope", "tracker_ros.registry"),
    ],
)
def test_a_broken_rule_is_noticed(source, module):
    assert len(violations(source, module)) >= 1


@pytest.mark.parametrize(
    ("source", "module"),
    [
        ("import rclpy", "tracker_ros.nodes.track"),
        ("from tracker_ros.cuda import prroi_pool", "tracker_ros.models.layers.vit"),
        ("from ..geometry import clip", "tracker_ros.nodes.track"),
        ("import torch\nfrom . import build", "tracker_ros.cuda.prroi_pool"),
        ("import numpy\nfrom tracker_ros import geometry", "tracker_ros.io.sources"),
        ("from tracker_ros.cache import Cache", "tracker_ros.cuda.build"),
        ("from tracker_ros.training import trainer", "tracker_ros.cli.models"),
        ("from tracker_ros.registry import create_tracker", "tracker_ros.training.trainer"),
        ("from tracker_ros.synthetic import render", "tracker_ros.training.datasets"),
    ],
)
def test_what_is_allowed_passes(source, module):
    assert violations(source, module) == []


def test_importing_the_package_is_light():
    heavy = ["rclpy", "torch", "cv2", "av", "matplotlib", "skimage", "launch"]
    code = (
        "import sys, tracker_ros\n"
        f"loaded = [name for name in {heavy!r} if name in sys.modules]\n"
        "assert not loaded, loaded\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
