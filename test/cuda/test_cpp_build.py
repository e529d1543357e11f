# SPDX-License-Identifier: Apache-2.0
"""Building for the CPU: once, whoever asks; again when damaged; in a private folder only."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tracker_ros.cuda.build import KERNELS, BuildError, CppLibrary

ROOT = Path(__file__).resolve().parents[2]

# Builds and uses the kernels in a process of its own.
POOL_ONE_PIXEL = """
import sys
from pathlib import Path
sys.path.insert(0, "test/cuda")
from test_cpp_build import pooled

print(pooled(Path(sys.argv[1])))
"""


def pooled(folder: Path) -> float:
    """Build the kernels unless they are there; pool one pixel, 7, over a quarter of its hat."""
    library = CppLibrary("prroi_pool", folder)
    out, features = ctypes.c_double(), ctypes.c_double(7.0)
    boxes = (ctypes.c_double * 4)(0, 0, 1, 1)
    pointers = [ctypes.c_void_p(ctypes.addressof(array)) for array in (out, features, boxes)]
    library.run("prroi_pool_double", [ctypes.c_int64(1), *pointers, *[ctypes.c_int64(1)] * 4])
    return out.value


def start(folder: Path) -> subprocess.Popen[str]:
    """Start a process that builds and uses the kernels."""
    command = [sys.executable, "-c", POOL_ONE_PIXEL, str(folder)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def printed(process: subprocess.Popen[str]) -> float:
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return float(output)


class Compiler:
    """A g++ that keeps count, and can be slow.

    Args:
        folder: On PATH, before the real one's.
        real: Path of the real one.
    """

    def __init__(self, folder: Path, real: str) -> None:
        self.log = folder / "compiled"
        self.program = folder / "g++"
        self.real = real
        self.write()

    def write(self, *, version: str = "g++ 1", seconds: float = 0, command: str = "") -> None:
        """Write the program; `command` goes before the real compiler."""
        self.program.write_text(
            f"#!/bin/sh\n[ $# = 1 ] && echo '{version}' && exit\n"
            f'echo once >> {self.log}\nsleep {seconds}\nexec {command} {self.real} "$@"\n'
        )
        self.program.chmod(0o755)

    @property
    def runs(self) -> int:
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> CppLibrary:
    return CppLibrary("prroi_pool", tmp_path_factory.mktemp("shared") / "kernels")


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compiler:
    real = shutil.which("g++")
    assert real is not None
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return Compiler(tmp_path, real)


def library_file(folder: Path) -> Path:
    (found,) = folder.glob("*.so")
    return found


def test_two_processes_at_once_compile_once_and_a_third_not_at_all(
    compiler: Compiler, tmp_path: Path
) -> None:
    compiler.write(seconds=1)
    folder = tmp_path / "kernels"
    both = [start(folder), start(folder)]
    assert [printed(process) for process in both] == [1.75, 1.75]
    assert compiler.runs == 1
    assert pooled(folder) == 1.75
    assert compiler.runs == 1
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.suffix for path in folder.iterdir()} == {".so", ".json", ".lock"}


@pytest.mark.parametrize("damage", ["truncated", "empty", "one byte"])
def test_a_damaged_library_is_built_again(compiler: Compiler, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "kernels"
    CppLibrary("prroi_pool", folder)
    path = library_file(folder)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    kept = {"truncated": len(content) // 3, "empty": 0, "one byte": len(content)}[damage]
    path.unlink()  # what this process has loaded stays as it was
    path.write_bytes(content[:kept])
    assert pooled(folder) == 1.75
    assert compiler.runs == 2
    assert library_file(folder) == path


def test_another_compiler_or_source_builds_anew(
    compiler: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "kernels"
    CppLibrary("prroi_pool", folder)
    compiler.write(version="g++ 2")
    CppLibrary("prroi_pool", folder)
    assert compiler.runs == 2
    sources = tmp_path / "source"
    shutil.copytree(KERNELS, sources)
    (sources / "kernel.cuh").write_text("// changed\n" + (sources / "kernel.cuh").read_text())
    monkeypatch.setattr("tracker_ros.cuda.build.KERNELS", sources)
    CppLibrary("prroi_pool", folder)
    assert compiler.runs == 3
    assert len(list(folder.glob("*.so"))) == 3


def test_a_failed_build_leaves_nothing_behind(compiler: Compiler, tmp_path: Path) -> None:
    folder = tmp_path / "kernels"
    compiler.write(command="""sh -c 'for out; do :; done; echo half > "$out"; exit 3'""")
    with pytest.raises(BuildError, match="exited with 3"):
        CppLibrary("prroi_pool", folder)
    assert [path.suffix for path in folder.iterdir()] == [".lock"]
    compiler.write()
    assert pooled(folder) == 1.75


def test_a_folder_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o775)
    with pytest.raises(BuildError, match="chmod 700") as raised:
        CppLibrary("prroi_pool", shared)
    assert "drwxrwxr-x" in str(raised.value)
    private = tmp_path / "private"
    private.mkdir(0o700)
    link = tmp_path / "link"
    link.symlink_to(private)
    with pytest.raises(BuildError, match="real folder"):
        CppLibrary("prroi_pool", link)


def test_the_compiler_s_complaint_is_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels = tmp_path / "source"
    kernels.mkdir()
    (kernels / "broken.cuh").write_text("int f() { return undeclared_name; }\n")
    monkeypatch.setattr("tracker_ros.cuda.build.KERNELS", kernels)
    with pytest.raises(BuildError, match="undeclared_name"):
        CppLibrary("broken", tmp_path / "kernels")


def test_every_kernel_is_exported_for_both_types(library: CppLibrary) -> None:
    loaded = ctypes.CDLL(library._library._name)
    for kernel in ("prroi_pool", "prroi_pool_grad_boxes"):
        assert loaded[f"{kernel}_float"]
        assert loaded[f"{kernel}_double"]


def test_another_processor_builds_anew(
    compiler: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "kernels"
    other = tmp_path / "cpuinfo"
    other.write_text("processor : 0\nflags : none\nbogomips : 1\n")
    CppLibrary("prroi_pool", folder)
    monkeypatch.setattr("tracker_ros.cuda.build._CPU_INFO", other)
    CppLibrary("prroi_pool", folder)
    assert compiler.runs == 2
    other.write_text("processor : 1\nflags : none\nbogomips : 2\n")
    CppLibrary("prroi_pool", folder)
    assert compiler.runs == 2


def test_a_compiler_that_does_not_know_the_processor_builds_for_any(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tracker_ros.cuda.build.NATIVE", "-march=unheard-of")
        CppLibrary("prroi_pool", tmp_path / "kernels")
    assert library_file(tmp_path / "kernels").is_file()


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 3, 7])
def test_indices_are_divided_among_threads(
    library: CppLibrary, monkeypatch: pytest.MonkeyPatch, threads: int, count: int
) -> None:
    seen: list[tuple[int, int, int]] = []

    def kernel(first: ctypes.c_int64, past: ctypes.c_int64, value: ctypes.c_int64) -> None:
        seen.append((first.value, past.value, value.value))

    monkeypatch.setattr(library, "_library", SimpleNamespace(kernel=kernel))
    monkeypatch.setattr("torch.get_num_threads", lambda: threads)
    library.run("kernel", [ctypes.c_int64(count), ctypes.c_int64(9)])
    assert len(seen) == max(1, min(threads, count))
    assert {value for *_, value in seen} == {9}
    assert sorted(i for first, past, _ in seen for i in range(first, past)) == list(range(count))
