# SPDX-License-Identifier: Apache-2.0
"""ROS 2 Jazzy out of Python packages, for machines that have no ROS installation.

The compiled parts (rclpy, Fast DDS, the common messages, the message generators) are packages of
their own. The other parts (launch, ros2cli, tf2, ...) and some message definitions are copied out
of a larger wheel; see dev/requirements-isaacsim.txt for its licence.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
import sysconfig
import zipfile
from pathlib import Path

from layout import Layout
from steps import Environment, Log, Step, StepError
from workspace import COMPILER_REMEDY, colcon, workspace_steps

JAZZY = "isaacsim/exts/isaacsim.ros2.core/jazzy/"
INDEX = "ament_index/resource_index/packages"
PYTHON_FOLDERS = (
    "ament_package",
    "diagnostic_updater",
    "launch",
    "launch_ros",
    "launch_testing",
    "launch_testing_ros",
    "launch_xml",
    "launch_yaml",
    "message_filters",
    "ros2cli",
    "ros2node",
    "ros2param",
    "ros2pkg",
    "ros2run",
    "ros2service",
    "ros2topic",
    "rosidl_runtime_py",
    "tf2_py",
    "tf2_ros",
)
# tf2_py is compiled for CPython 3.12, but calls nothing that 3.11 and 3.13 lack.
LIBRARIES = ("libtf2.so",)
PYTHON_FILES = ("launch_testing_ros_pytest_entrypoint.py",)
# CMake packages that the generators ask for and that have no Python package.
CMAKE_FOLDERS = (
    "ament_cmake_gmock",
    "ament_cmake_gtest",
    "ament_cmake_include_directories",
    "ament_cmake_pytest",
    "ament_cmake_ros",
    "python_cmake_module",
    "rosidl_core_generators",
)
# Messages compiled here, with what their definitions use. launch_ros imports the second one.
MESSAGES = {
    "tf2_msgs": ("builtin_interfaces", "geometry_msgs"),
    "vision_msgs": ("geometry_msgs", "std_msgs"),
    "composition_interfaces": ("rcl_interfaces",),
}
# Messages that robots may have beside ROS: only what the tests need, defined in dev/messages.
OWN_MESSAGES = {
    "ffmpeg_image_transport_msgs": ("std_msgs",),
    "foxglove_msgs": ("builtin_interfaces",),
}
# One source file per library instead of one per message saves a quarter of the compile time. The
# C libraries and introspection_cpp define the same names in each file, so they stay as they are.
FEWER_COMPILER_CALLS = """\
foreach(support c cpp fastrtps_c fastrtps_cpp)
  set_target_properties(${PROJECT_NAME}__rosidl_typesupport_${support}
    PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 0)
endforeach()
"""
SUPPORTED = ((3, 11), (3, 13))
NETWORK = "Check that pip reaches its package index and that the disk is not full."


class Underlay:
    """The steps of this kind of environment; ``steps()`` gives them in order."""

    distribution = "jazzy"
    requirements = "requirements-ros.txt"

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.files = layout.dev / "ros-files"
        self.messages = layout.dev / "ros-messages"
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        self.packages = layout.venv / "lib" / version / "site-packages"
        self.version = version
        self.numpy = self.packages / "numpy"
        self.env = layout.build_environment(keep_ros=False)

    def steps(self) -> list[Step]:
        """Return all steps in the order in which they have to run."""
        tools = self.layout.tools
        wanted = repr((PYTHON_FOLDERS, PYTHON_FILES, CMAKE_FOLDERS, MESSAGES, LIBRARIES))
        constraints = tools / "constraints.txt"
        venv = self.venv_step()
        packages = Step(
            name="packages",
            title="install Python packages (about 700 MB)",
            run=self.install_packages,
            inputs=[tools / "requirements.txt", tools / self.requirements, constraints],
            after=[venv],
            made=[self.packages / "rclpy", self.packages / "torch"],
            remedy=NETWORK,
        )
        files = Step(
            name="ros-files",
            title="fetch the pure-Python parts of ROS (130 MB)",
            run=self.fetch_files,
            inputs=[tools / "requirements-isaacsim.txt", wanted],
            made=[self.files / "python", self.files / "share"],
            remedy=NETWORK,
        )
        launch = Step(
            name="ros2launch",
            title="add a stand-in for 'ros2 launch'",
            run=self.install_launch_command,
            inputs=[tools / "ros2launch"],
            after=[venv],
            made=[self.packages / "ros2launch_standin"],
            remedy="Look for an error in dev/ros2launch.",
        )
        ros = self.ros_python_step([venv, files])
        return [venv, packages, files, ros, launch, *self.compile_steps(ros)]

    def venv_step(self) -> Step:
        """Return the step that creates the virtual environment."""
        return Step(
            name="venv",
            title="create the virtual environment",
            run=self.create_venv,
            inputs=[sys.version, str(Path(sys.executable).resolve()), str(self.layout.root)],
            made=[self.layout.python],
            remedy="On Debian and Ubuntu: apt-get install g++ python3-dev python3-venv.",
        )

    def ros_python_step(self, after: list[Step]) -> Step:
        """Return the step that puts the fetched parts into the virtual environment."""
        return Step(
            name="ros-python",
            title="put them into the virtual environment",
            run=self.install_files,
            inputs=[self.layout.tools / self.requirements],
            after=after,
            made=[
                self.layout.venv / "bin" / "ros2",
                self.layout.venv / "share" / INDEX / "launch_ros",
            ],
            remedy="Remove the folder .dev.",
        )

    def compile_steps(self, ros: Step) -> list[Step]:
        """Return the steps that compile messages and build this repository's packages."""
        messages = Step(
            name="ros-messages",
            title=f"compile {', '.join([*MESSAGES, *OWN_MESSAGES])}",
            run=self.compile_messages,
            inputs=[self.layout.tools / self.requirements, self.layout.tools / "messages"],
            after=[ros],
            made=[
                self.messages / f"install/share/{name}/package.xml"
                for name in (*MESSAGES, *OWN_MESSAGES)
            ],
            remedy=COMPILER_REMEDY,
        )
        workspace = workspace_steps(
            self.layout,
            lambda: self.ros_environment(self.messages / "install", self.layout.venv),
            self.cmake_arguments,
            [messages],
        )
        return [messages, *workspace]

    @property
    def cmake_arguments(self) -> list[str]:
        """What CMake needs to know to find this interpreter and nothing else."""
        return ["-GNinja", f"-DPython3_EXECUTABLE={self.layout.python}", "-DBUILD_TESTING=OFF"]

    def ros_environment(self, *prefixes: Path) -> Environment:
        """Return the build variables with ``prefixes`` as the ROS installation."""
        return {
            **self.env,
            "AMENT_PREFIX_PATH": ":".join(map(str, prefixes)),
            # The CMake fill-ins register a Rust generator that is not there, so they must not be
            # on AMENT_PREFIX_PATH.
            "CMAKE_PREFIX_PATH": ":".join(map(str, [*prefixes, self.files])),
            "PYTHONPATH": ":".join(f"{p}/lib/{self.version}/site-packages" for p in prefixes[:-1]),
            "LD_LIBRARY_PATH": self.library_path(*prefixes),
            "ROS_DISTRO": self.distribution,
            "_ROS_WHEELS_BOOTSTRAP_COMPLETE": "1",
        }

    def library_path(self, *prefixes: Path) -> str:
        """Return where the loader finds ROS libraries, those bundled with wheels included."""
        bundled = sorted(self.packages.glob("ros_*.libs"))
        return ":".join([*(f"{prefix}/lib" for prefix in prefixes), *map(str, bundled)])

    def create_venv(self, log: Log) -> None:
        """Create an empty virtual environment.

        Raises:
            StepError: The folder is a link: clearing it would empty another checkout's.
        """
        if self.layout.venv.is_symlink():
            raise StepError(
                f"{self.layout.venv} is a link to {self.layout.venv.resolve()}, which another "
                "checkout owns: run dev/setup there, and here only single steps, for example "
                "dev/setup --only interfaces"
            )
        self.check_prerequisites()
        log.call(
            [sys.executable, "-m", "venv", "--clear", self.layout.venv], self.env, self.layout.root
        )

    def check_prerequisites(self) -> None:
        """Name everything that only the system's package manager can bring, before any download.

        Raises:
            StepError: Something is missing.
        """
        if not SUPPORTED[0] <= sys.version_info[:2] <= SUPPORTED[1]:
            raise StepError(
                f"Python {sys.version.split()[0]} was found; the ROS packages exist for 3.11 to "
                "3.13: name another interpreter, for example PYTHON=python3.11 make setup"
            )
        found = {
            "g++": shutil.which("c++") or shutil.which("g++"),
            "python3-dev": Path(sysconfig.get_paths()["include"], "Python.h").is_file(),
            "python3-venv": importlib.util.find_spec("ensurepip"),
        }
        missing = [package for package, there in found.items() if not there]
        if missing:
            raise StepError(f"missing on this machine: {', '.join(missing)}")

    def install_packages(self, log: Log) -> None:
        """Install everything that pip knows, at the pinned versions."""
        tools = self.layout.tools
        # Compiled at first use instead: most modules of torch and scipy are never imported.
        pip = [self.layout.python, "-m", "pip", "install", "--no-compile", "--progress-bar", "off"]
        sources = [
            *("-r", tools / self.requirements, "-r", tools / "requirements.txt"),
            *("-c", tools / "constraints.txt"),
        ]
        # A killed pip leaves half a package that looks installed, so that calls for a new start.
        unfinished = self.layout.venv / "unfinished"
        if unfinished.exists():
            self.create_venv(log)
        unfinished.touch()
        try:
            log.call([*pip, *sources], self.env, self.layout.root)
        except StepError:
            unfinished.unlink()
            raise
        unfinished.unlink()
        # Only a broken download is worth keeping: the cache would double the folder's size.
        shutil.rmtree(self.layout.dev / "cache" / "pip", ignore_errors=True)

    def fetch_files(self, log: Log) -> None:
        """Download the wheel as a file and keep the few folders that are needed."""
        download = self.layout.dev / "cache" / "download"
        shutil.rmtree(self.files, ignore_errors=True)
        requirement = self.layout.tools / "requirements-isaacsim.txt"
        log.call(
            [
                *(self.layout.python, "-m", "pip", "download", "--no-deps", "--require-hashes"),
                *("--progress-bar", "off", "--only-binary=:all:", "--python-version", "3.12"),
                *("--implementation", "cp", "--abi", "none"),
                *("--platform", "manylinux_2_35_x86_64", "-d", download, "-r", requirement),
            ],
            self.env,
            self.layout.root,
        )
        wheels = list(download.glob("isaacsim_ros2-*.whl"))
        if len(wheels) != 1:
            raise StepError(f"expected one wheel in {download}, found {len(wheels)}")
        with zipfile.ZipFile(wheels[0]) as wheel:
            for member in wheel.infolist():
                target = self._wanted(member.filename)
                if target is not None and not member.is_dir():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(wheel.read(member))
        shutil.rmtree(download)

    def _wanted(self, name: str) -> Path | None:
        """Return where the wheel's file ``name`` goes, or None when it is not needed."""
        if not name.startswith(JAZZY):
            return None
        area, _, rest = name.removeprefix(JAZZY).partition("/")
        top = rest.split("/")[0]
        package = re.sub(r"-[^-]*-py3\.\d+\.egg-info$", "", top)
        if area == "rclpy" and (package in PYTHON_FOLDERS or top in PYTHON_FILES):
            return self.files / "python" / rest
        if area == "lib" and rest in LIBRARIES:
            return self.files / "lib" / rest
        if area == "share" and (top in CMAKE_FOLDERS or top in MESSAGES):
            return self.files / "share" / rest
        if area == "share" and top in PYTHON_FOLDERS and rest == f"{top}/package.xml":
            return self.files / "share" / rest
        return None

    def install_files(self, log: Log) -> None:
        """Copy the Python folders, mend the message wheels' CMake files, add the commands."""
        for source in sorted((self.files / "python").iterdir()):
            target = self.packages / source.name
            if source.is_dir():
                shutil.copytree(source, target, dirs_exist_ok=True)
            else:
                shutil.copyfile(source, target)
        for library in (self.files / "lib").iterdir():
            shutil.copyfile(library, self.layout.venv / "lib" / library.name)
        for name in PYTHON_FOLDERS:
            self._register(name)
        self._mend_cmake_files(log)
        self._add_command("ros2", "ros2cli.cli")
        self._add_command("_ros2_daemon", "ros2cli.daemon")
        self._add_command("launch_test", "launch_testing.launch_test")

    def install_launch_command(self, log: Log) -> None:
        """Install dev/ros2launch into the virtual environment."""
        # pip builds in the folder that it is given, so it gets a copy.
        copy = self.layout.dev / "cache" / "ros2launch"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.layout.tools / "ros2launch", copy)
        pip = [self.layout.python, "-m", "pip", "install", "--no-deps", "--no-build-isolation"]
        log.call([*pip, "--no-compile", "--force-reinstall", copy], self.env, self.layout.dev)

    def _register(self, name: str) -> None:
        """Enter a copied package into ROS's index of packages, as its installation would have."""
        share = self.layout.venv / "share"
        (share / name).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.files / "share" / name / "package.xml", share / name / "package.xml")
        (share / INDEX / name).touch()

    def _mend_cmake_files(self, log: Log) -> None:
        """Replace paths of the Python and NumPy with which the message wheels were built."""
        include = sysconfig.get_paths()["include"]
        for path in (self.layout.venv / "share").rglob("*.cmake"):
            text = path.read_text(encoding="utf-8")
            mended = re.sub(r"/opt/python/cp\d+-cp\d+/include/python3\.\d+", include, text)
            mended = re.sub(
                r"/opt/python/cp\d+-cp\d+/lib/python3\.\d+/site-packages/numpy",
                str(self.numpy),
                mended,
            )
            if mended != text:
                log.write(f"mended {path}")
                path.write_text(mended, encoding="utf-8")

    def _add_command(self, name: str, module: str) -> None:
        """Write a start script, as pip would have done for the package."""
        path = self.layout.venv / "bin" / name
        path.write_text(
            f"#!{self.layout.python}\n"
            f"import sys\n\nfrom {module} import main\n\nsys.exit(main())\n",
            encoding="utf-8",
        )
        path.chmod(0o755)

    def compile_messages(self, log: Log) -> None:
        """Give the message definitions a CMake file each and compile them."""
        shutil.rmtree(self.messages, ignore_errors=True)
        for name, uses in MESSAGES.items():
            self._write_message_package(self.files / "share" / name, uses)
        for name, uses in OWN_MESSAGES.items():
            self._write_message_package(self.layout.tools / "messages" / name, uses)
        arguments = ["--base-paths", self.messages / "source", "--cmake-args"]
        env = self.ros_environment(self.layout.venv)
        colcon(self.layout, log, env, self.messages, [*arguments, *self.cmake_arguments])

    def _write_message_package(self, source: Path, uses: tuple[str, ...]) -> None:
        name, target = source.name, self.messages / "source" / source.name
        target.mkdir(parents=True)
        shutil.copyfile(source / "package.xml", target / "package.xml")
        definitions = sorted(
            p for kind in ("msg", "srv", "action") for p in source.glob(f"{kind}/*.{kind}")
        )
        for path in definitions:
            copy = target / path.relative_to(source)
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, copy)
        names = "\n".join(f"  {path.relative_to(source)}" for path in definitions)
        found = "\n".join(
            f"find_package({used} REQUIRED)"
            for used in ("ament_cmake", "rosidl_default_generators", *uses)
        )
        (target / "CMakeLists.txt").write_text(
            f"cmake_minimum_required(VERSION 3.16)\nproject({name})\n{found}\n"
            f"rosidl_generate_interfaces(${{PROJECT_NAME}}\n{names}\n"
            f"  DEPENDENCIES {' '.join(uses)})\n"
            f"{FEWER_COMPILER_CALLS}"
            "ament_export_dependencies(rosidl_default_runtime)\nament_package()\n",
            encoding="utf-8",
        )

    def exports(self) -> str:
        """Return the shell lines that make this environment the current one."""
        layout = self.layout
        install = layout.workspace / "install"
        folders = (install, self.messages / "install", layout.venv)
        prefixes = ":".join(map(str, folders))
        site = f"lib/{self.version}/site-packages"
        return f"""\
{layout.common_exports()}
export ROS_DISTRO={self.distribution} ROS_VERSION=2 ROS_PYTHON_VERSION=3
export RMW_IMPLEMENTATION=rmw_fastrtps_cpp
export AMENT_PREFIX_PATH="{prefixes}"
export CMAKE_PREFIX_PATH="{prefixes}:{self.files}"
# The build folder of tracker_ros holds links to the sources, so that edits take effect at once.
export PYTHONPATH="{layout.workspace}/build/tracker_ros:{install}/{site}\
:{self.messages}/install/{site}${{PYTHONPATH:+:$PYTHONPATH}}"
export LD_LIBRARY_PATH="{self.library_path(*folders)}"
# Set beforehand, so that the ROS wheels need not start every Python a second time.
export _ROS_WHEELS_BOOTSTRAP_COMPLETE=1
"""
