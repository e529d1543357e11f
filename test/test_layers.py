# SPDX-License-Identifier: Apache-2.0
"""Three layers, one direction: nodes -> (models and everything else) -> cuda."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "tracker_ros"
SOURCES = sorted(PACKAGE.rglob("*.py"))
# Top-level modules that only nodes/ may import: ROS's client library, its messages, its tools.
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
# What tracker_ros/cuda/ may import of this package: nothing but itself.
LAYERS = {"cuda": 0, "nodes": 2}
HELPERS = 1


def layer_of(module: str) -> int:
    """Return the layer of a dotted module name inside tracker_ros."""
    parts = module.split(".")
    return LAYERS.get(parts[1], HELPERS) if len(parts) > 1 else HELPERS


def module_of(path: Path) -> str:
    """Return the dotted name of a source file, packages by their folder."""
    relative = path.relative_to(PACKAGE.parent).with_suffix("")
    parts = relative.parts[:-1] if relative.name == "__init__" else relative.parts
    return ".".join(parts)


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
    """Return the imports of ``source`` that break the layering, as 'module imports name: why'."""
    found = []
    layer = layer_of(module)
    for name in imports_of(source, module, is_package=is_package):
        top = name.split(".")[0]
        if layer < LAYERS["nodes"] and (top in ROS_MODULES or top.endswith("_msgs")):
            found.append(f"{module} imports {name}: only tracker_ros.nodes may know of ROS")
        elif top == "tracker_ros" and "." in name and layer_of(name) > layer:
            found.append(f"{module} imports {name}: that is a layer above")
        elif layer == LAYERS["cuda"] and top == "tracker_ros" and layer_of(name) != layer:
            found.append(f"{module} imports {name}: cuda/ knows only torch")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_no_file_imports_upward(path):
    source = path.read_text(encoding="utf-8")
    assert violations(source, module_of(path), is_package=path.name == "__init__.py") == []


def test_sources_are_found():
    assert len(SOURCES) > 10
    assert {"tracker_ros", "tracker_ros.nodes"} <= {module_of(path) for path in SOURCES}


@pytest.mark.parametrize(
    ("source", "module"),
    [
        ("import rclpy", "tracker_ros.tracker"),
        ("def f():\n    from sensor_msgs.msg import Image", "tracker_ros.io.sources"),
        ("from tracker_ros.nodes import track", "tracker_ros.io.sources"),
        ("from tracker_ros import nodes", "tracker_ros.models.layers.vit"),
        ("from .nodes.track import main", "tracker_ros.registry"),
        ("from ..nodes import track", "tracker_ros.models.layers.vit"),
        ("importlib.import_module('tracker_ros.nodes.track')", "tracker_ros.registry"),
        ("from tracker_ros.geometry import clip", "tracker_ros.cuda.correlation"),
        ("from ..boxes import clip", "tracker_ros.cuda.correlation"),
    ],
)
def test_an_upward_import_is_noticed(source, module):
    assert len(violations(source, module)) >= 1


@pytest.mark.parametrize(
    ("source", "module"),
    [
        ("import rclpy", "tracker_ros.nodes.track"),
        ("from tracker_ros.cuda import correlation", "tracker_ros.models.layers.vit"),
        ("from ..boxes import clip", "tracker_ros.nodes.track"),
        ("import torch\nfrom . import kernels", "tracker_ros.cuda.correlation"),
        ("import numpy\nfrom tracker_ros import boxes", "tracker_ros.io.sources"),
    ],
)
def test_a_downward_import_is_allowed(source, module):
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
