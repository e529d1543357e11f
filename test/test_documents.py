# SPDX-License-Identifier: Apache-2.0
"""The documents: what they name exists, commands parse, and tables are up to date."""

import importlib.util
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tools import generate, measured
from tracker_ros.cli.main import build_parser

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "dev" / "README.md",
    ROOT / "findings" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
FOLDERS = ["", "tracker_ros/", "tracker_ros/models/", "docs/", "dev/"]
"""Where a path in a document may begin."""

each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)


@each_document
def test_relative_links_lead_to_files(document):
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", document.read_text())
    relative = [target for target in targets if "://" not in target]
    missing = [target for target in relative if not (document.parent / target).exists()]
    assert missing == []


@each_document
def test_links_within_documents_lead_to_headings(document):
    links = re.findall(r"\]\(([\w./-]*)#([\w-]+)\)", document.read_text())
    for target, anchor in links:
        text = (document.parent / target if target else document).read_text()
        headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        known = [
            re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings
        ]
        assert anchor in known, f"{target}#{anchor}"


@each_document
def test_paths_in_documents_exist(document):
    text = document.read_text()
    named = re.findall(r"`([\w./-]+/[\w./-]*|[\w-]+\.(?:py|md|yaml|xml|toml))`", text)
    parts = {path.parts[-1] for path in ROOT.glob("t*/**/*.py")}
    missing = [
        name
        for name in named
        if "NAME" not in name
        and Path(name).suffix in {".py", ".md", ".yaml", ".xml", ".toml", ".txt", ".srv", ".msg"}
        and not any((ROOT / folder / name).exists() for folder in FOLDERS)
        and name not in parts
    ]
    assert missing == []


def _commands(document):
    """The command lines in a document's code blocks and code spans, without comments."""
    text = document.read_text().replace("\\\n", " ")
    blocks = re.findall(r"```(?:bash)?\n(.*?)```", text, re.DOTALL)
    spans = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)
    for line in [*spans, *(line for block in blocks for line in block.splitlines())]:
        words = line.split("  #")[0].strip()
        yield words.removeprefix("dev/run ")


@each_document
def test_commands_in_documents_parse(document, capsys):
    for line in _commands(document):
        if line.startswith("tracker-ros ") and "…" not in line:
            words = shlex.split(line)[1:]
            try:
                build_parser().parse_args(words)
            except SystemExit as end:
                # A command named without its arguments lacks some, which is all right.
                error = capsys.readouterr().err
                incomplete = "are required" in error
                assert end.code == 0 or incomplete, f"{line}: {error}"


@each_document
def test_programs_in_documents_exist(document):
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in _commands(document):
        if match := re.match(r"make ([a-z]+)", line):
            assert match[1] in targets, line
        if match := re.search(r"python -m ((?:tools|tracker_ros)\.[\w.]+)", line):
            assert importlib.util.find_spec(match[1]), line
        if match := re.match(r"ros2 run tracker_ros (\w\S*)", line):
            programs = re.findall(r"\"([\w-]+) = tracker_ros", (ROOT / "setup.py").read_text())
            assert match[1] in programs, line


def test_architecture_lists_every_folder():
    text = (ROOT / "docs/architecture.md").read_text()
    tree = next(
        block
        for block in re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        if "  nodes/" in block
    )
    listed, parents = set(), [Path()]
    for line in tree.splitlines():
        depth, name = (len(line) - len(line.lstrip())) // 2, line.split()[0]
        parents[depth + 1 :] = [parents[depth] / name]
        listed.add(parents[depth + 1].as_posix())
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    folders = {folder for name in tracked for folder in list(Path(name).parents)[:-1]}
    package = {f for f in folders if f.parts[0] == "tracker_ros" and f.name != "kernels"}
    top = {f for f in folders if len(f.parts) == 1 and not f.name.startswith(".")}
    assert listed == {folder.as_posix() for folder in package | top}


@pytest.mark.parametrize("folder", ["", "following", "nodes"])
def test_architecture_lists_every_file_of(folder):
    text = (ROOT / "docs/architecture.md").read_text()
    head = f"| In `{folder}/` | Holds |" if folder else "| At the top | Holds |"
    rows = text.partition(head)[2].partition("\n\n")[0].splitlines()[2:]
    listed = re.findall(r"`(\w+\.py)`", "".join(row.split("|")[1] for row in rows))
    files = {path.name for path in (ROOT / "tracker_ros" / folder).glob("*.py")}
    assert {*listed} == (files - {"__init__.py"} if folder else files)


def test_new_names_in_the_changelog_exist():
    text = (ROOT / "CHANGELOG.rst").read_text()
    cells = re.findall(r"^       - (.*(?:\n         \S.*)*)", text, re.MULTILINE)
    missing, last = [], ""
    for name in re.findall(r"``([a-z_.]+\.[\w.]+)``", " ".join(cells)):
        if name.startswith("."):
            name = last.rpartition(".")[0] + name
        last = name
        path = ROOT / name.replace(".", "/")
        known = (
            path.with_suffix(".py").exists()
            or path.is_dir()
            or path.parent.with_suffix(".py").exists()
        )
        if name.startswith(("tracker_ros.", "tools.")) and not known:
            missing.append(name)
    assert missing == []


def test_readme_lists_every_topic_service_and_field():
    text = (ROOT / "README.md").read_text().partition("## Interface of `track`")[2]
    text = text.partition("\n## ")[0]
    services = (ROOT / "tracker_ros/nodes/services.py").read_text()
    publishers = (ROOT / "tracker_ros/nodes/publishers.py").read_text()
    names = re.findall(r'publisher\(\w+, "([\w/]+)"', publishers)
    names += re.findall(
        r'^ *\((?:SelectTarget|RemoveTarget|Trigger|SetBool), "(\w+)"', services, re.M
    )
    names += [name + end for name in ("selection", "selection_mask") for end in ("", "_append")]
    assert len(names) >= 15
    message = (ROOT / "tracker_interfaces/msg/TargetStatus.msg").read_text()
    names += re.findall(r"^[a-z\w/]+ (\w+)(?:=|$| )", message, re.MULTILINE)
    assert [name for name in names if f"`{name}`" not in text] == []


def test_generated_files_are_up_to_date():
    assert generate.main(["--check"]) == 0, "run `make docs`"


def test_readme_has_a_place_for_every_measured_table():
    text = (ROOT / "README.md").read_text()
    for name in measured.TABLES:
        renewed = generate.replace_table(text, name, "NEW NUMBERS")
        assert f"<!-- {name}:begin -->\nNEW NUMBERS\n<!-- {name}:end -->" in renewed
        assert generate.replace_table(renewed, name, "NEW NUMBERS") == renewed
    with pytest.raises(ValueError, match="nothing"):
        generate.replace_table(text, "nothing", "")


MACHINE = {"date": "2026-01-02", "processor": "Some CPU, 2 cores", "accelerator": ""}


def test_measured_tables_name_numbers_machine_and_date():
    demo = measured.demo_table(
        {
            "frames": {"given_to_tracker": 170, "dropped": 3},
            "latency": {"p50": 21.4, "p99": 40.6},
            "machine": MACHINE,
            "rate_hz": 9.98,
            "tracked_share": 0.97,
            "mean_iou": 0.712,
            "check_boxes": [{}] * 8,
        }
    )
    for part in ("170 frames at 10 Hz", "97%", "3 dropped", "0.71", "21 ms", "2026-01-02"):
        assert part in demo
    accuracy = measured.accuracy_table(
        {
            "machine": MACHINE,
            "device": "cpu",
            "sequences": [{"frames": 50}, {"frames": 60}],
            "trackers": [
                {
                    "tracker": "csrt",
                    "auc": 0.665,
                    "precision": 0.763,
                    "failures": 0,
                    "frames_per_second": None,
                },
                {
                    "tracker": "ostrack_tiny",
                    "auc": 0.700,
                    "precision": 0.8,
                    "failures": 1,
                    "frames_per_second": 50.4,
                },
            ],
        }
    )
    assert "| csrt | 0.665 | 0.763 | 0 | – |" in accuracy
    assert "2 short public sequences (110 frames)" in accuracy
    assert "| ostrack_tiny | 0.700 | 0.800 | 1 | 50 |" in accuracy
    assert "`ostrack_tiny` is 0.035 AUC above CSRT" in accuracy
    assert "Some CPU" in accuracy
