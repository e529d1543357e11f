# SPDX-License-Identifier: Apache-2.0
"""Package definition for colcon (ament_python) and pip.

Evaluated by colcon while it looks for packages, so nothing here imports torch, ROS or the package
itself, and nothing is compiled (``--symlink-install`` skips custom build steps).
"""

from glob import glob
from os import path
from xml.etree import ElementTree

from setuptools import find_packages, setup

NAME = "tracker_ros"
HERE = path.dirname(path.abspath(__file__))
MANIFEST = ElementTree.parse(path.join(HERE, "package.xml")).getroot()


def files(pattern):
    """Return the regular files that match ``pattern``, relative to this folder and sorted."""
    found = glob(pattern, root_dir=HERE)
    return sorted(name for name in found if path.isfile(path.join(HERE, name)))


def share(folder=""):
    """Return where ``folder`` is installed: ``share/tracker_ros/<folder>``."""
    return path.join("share", NAME, folder) if folder else path.join("share", NAME)


setup(
    name=NAME,
    version=MANIFEST.findtext("version"),
    description=" ".join(MANIFEST.findtext("description").split()),
    license="Apache-2.0",
    maintainer=MANIFEST.findtext("maintainer"),
    maintainer_email=MANIFEST.find("maintainer").get("email"),
    python_requires=">=3.10",
    packages=find_packages(include=[NAME, f"{NAME}.*"]),
    package_data={
        NAME: [
            *("py.typed", "weights/*", "graphs/*/*", "cuda/kernels/*", "console/static/*"),
            *("io/*.txt", "evaluation/*.html", "evaluation/*.md"),
        ]
    },
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (share(), ["package.xml"]),
        *(
            (share(folder), files(f"{folder}/*"))
            for folder in ("launch", "config", "recipes")
            if files(f"{folder}/*")
        ),
    ],
    # Everything that embedded models need in create_tracker, track_video and tracker-ros. Other
    # weights, training and export need PyTorch, whose right build depends on the machine's GPU
    # (docs/models.md).
    install_requires=[
        "setuptools",
        "numpy>=1.21",
        "onnxruntime",
        "opencv-python-headless",
        "safetensors",
        "av",
        "platformdirs>=2.5",
        "filelock>=3.6",
        "pyyaml",
        "tqdm",
    ],
    extras_require={
        "torch": ["torch"],
        "onnx": ["torch", "onnx", "onnxscript"],  # export graphs, docs/engines.md
        "gpu": ["cuda-bindings"],  # compile kernels for the GPU that is there
        "train": ["torch", "dacite", "matplotlib", "scikit-image"],
        "bags": ["rosbags", "lz4"],
        "console": ["starlette", "uvicorn", "websockets"],  # docs/console.md
        "webrtc": ["aiortc"],  # the console's pictures as video
        "vot": ["vot-trax"],  # run by the VOT toolkit, docs/evaluation.md
        "mavlink": ["pymavlink>=2.4.42", "pyserial"],  # docs/mavlink.md
    },
    zip_safe=False,
    entry_points={
        "console_scripts": [
            "track = tracker_ros.nodes.start:track",
            "video = tracker_ros.nodes.start:video",
            "select_target = tracker_ros.nodes.start:select_target",
            "hog_people = tracker_ros.nodes.start:hog_people",
            "ibvs = tracker_ros.nodes.start:ibvs",
            "mavlink_bridge = tracker_ros.nodes.start:mavlink_bridge",
            "console = tracker_ros.nodes.start:console",
            "tracker-ros = tracker_ros.cli.main:program",
        ],
    },
)
