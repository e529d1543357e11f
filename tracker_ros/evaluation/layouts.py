# SPDX-License-Identifier: Apache-2.0
"""Find the sequences in a folder, as the archives of the usual benchmarks unpack.

| Data set | Frames | Annotations |
| --- | --- | --- |
| plain | ``NAME/img/*`` | ``NAME/groundtruth.txt``, masks in ``NAME/masks/*`` |
| OTB | ``NAME/img/*`` | ``NAME/groundtruth_rect.txt``, ``groundtruth_rect.1.txt``, ``….2.txt`` |
| LaSOT | ``CLASS/NAME/img/*`` | ``CLASS/NAME/groundtruth.txt`` |
| VOT | ``NAME/color/*`` or ``NAME/*`` | ``NAME/groundtruth.txt``, ``groundtruth_OBJECT.txt`` |
| GOT-10k | ``{train,val}/NAME/*`` | ``{train,val}/NAME/groundtruth.txt`` |
| TrackingNet | ``TRAIN_0/frames/NAME/*`` | ``TRAIN_0/anno/NAME.txt`` |
| UAV123 | ``data_seq/UAV123/NAME/*`` | ``anno/UAV123/NAME.txt`` |
| DAVIS | ``JPEGImages/480p/NAME/*`` | ``Annotations/480p/NAME/*.png`` |

Any folder above is understood too, down to the folder of one sequence. Hidden files and those that
other systems leave behind (``._name.jpg``, ``__MACOSX``) are passed over.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tracker_ros.evaluation.annotations import read_text
from tracker_ros.io.sources import natural_key

_ONE_TARGET = ("groundtruth.txt", "groundtruth_rect.txt")
_MAX_DEPTH = 4
_RESOLUTIONS = ("480p", "Full-Resolution", "1080p")

OTB_FIRST_FRAMES = {"david": 300, "football1": 1, "freeman3": 1, "freeman4": 1, "diving": 1}
"""Number of the image that the first line of OTB's annotations belongs to, where the images are
not those that are annotated (http://cvlab.hanyang.ac.kr/tracker_benchmark)."""

_UAV123_PARTS = {
    "bird1": (1, 775, 1573),
    "car1": (1, 751, 1627),
    "car6": (1, 487, 1807, 2953, 3925),
    "car8": (1, 1357),
    "car16": (1, 415),
    "group1": (1, 1333, 2515, 3925),
    "group2": (1, 907, 1771),
    "group3": (1, 1567, 2827, 4369),
    "person2": (1, 1189),
    "person4": (1, 1501),
    "person5": (1, 877),
    "person7": (1, 1249),
    "person8": (1, 1075),
    "person12": (1, 601),
    "person14": (1, 847, 1813),
    "person17": (1, 1501),
    "person19": (1, 1243, 2791),
    "truck4": (1, 577),
    "uav1": (1, 1555, 2473),
}
"""UAV123 cuts some videos into sequences NAME_1, NAME_2 …: the numbers of their first frames."""


@dataclass(frozen=True)
class Location:
    """Where a sequence lies."""

    name: str
    frames: Path  # folder of its frames, or one above them
    truth: Path  # file of annotations, or a folder of label maps (DAVIS)
    # number, from 1, of the image that the annotations begin with, where these cover only a part;
    # None where images and annotations must be equally many
    first_frame: int | None = None


def locate_sequences(folder: Path) -> list[Location]:
    """Return the sequences at a folder, in natural order; none if there are none.

    A text file is a list of such folders relative to itself, one per line, ``#`` for comments, or
    one of DAVIS's own lists, in ``ImageSets``.
    """
    if folder.is_file():
        return _listed(folder)
    return list(_found(folder, _MAX_DEPTH))


def _found(folder: Path, depth: int) -> Iterator[Location]:
    """Yield the sequences in a folder and below it."""
    if (folder / "Annotations").is_dir() and (folder / "JPEGImages").is_dir():
        yield from _davis(folder)
    elif (folder / "anno").is_dir() and (folder / "data_seq").is_dir():
        yield from _uav123(folder)
    elif (folder / "anno").is_dir() and (folder / "frames").is_dir():
        for truth in _visible(folder / "anno"):
            if truth.suffix == ".txt":
                yield Location(truth.stem, folder / "frames" / truth.stem, truth)
    else:
        own = list(_own_sequences(folder))
        yield from own
        if not own and depth > 0:
            for entry in _visible(folder):
                if entry.is_dir():
                    yield from _found(entry, depth - 1)


def _own_sequences(folder: Path) -> Iterator[Location]:
    """Yield the sequences whose annotations lie directly in a folder: one for each target."""
    first = OTB_FIRST_FRAMES.get(folder.name.lower())
    name = folder.resolve().name
    for one_target in _ONE_TARGET:
        if (folder / one_target).is_file():
            yield Location(name, folder, folder / one_target, first)
            return
    files = [
        file
        for pattern in ("groundtruth_rect.*.txt", "groundtruth_*.txt")
        for file in sorted(folder.glob(pattern), key=lambda file: natural_key(file.name))
    ]
    # OTB's Human4 has an empty file for its first target.
    files = [file for file in dict.fromkeys(files) if read_text(file).strip()]
    for file in files:
        target = file.stem.removeprefix("groundtruth_").removeprefix("rect").strip("._")
        yield Location(name if len(files) == 1 else f"{name}.{target}", folder, file, first)


def _davis(folder: Path, names: list[str] | None = None) -> Iterator[Location]:
    """Yield the videos of DAVIS, all or those named, at the resolution that is there."""
    for resolution in _RESOLUTIONS:
        annotations = folder / "Annotations" / resolution
        if annotations.is_dir():
            for name in names or [entry.name for entry in _visible(annotations)]:
                frames = folder / "JPEGImages" / resolution / name
                yield Location(name, frames, annotations / name)
            return


def _uav123(folder: Path) -> Iterator[Location]:
    """Yield the sequences of UAV123 (or of another set in the same folders, if it is alone)."""
    sets = [entry for entry in _visible(folder / "anno") if entry.is_dir()]
    sets = [entry for entry in sets if (folder / "data_seq" / entry.name).is_dir()] or sets
    for anno in sets[:1]:
        pictures = folder / "data_seq" / anno.name
        pictures = pictures if pictures.is_dir() else folder / "data_seq" / "UAV123"
        for truth in _visible(anno):
            if truth.suffix != ".txt":
                continue
            name, (video, _, part) = truth.stem, truth.stem.rpartition("_")
            starts = _UAV123_PARTS.get(video, ())
            if part.isdigit() and int(part) <= len(starts) and not (pictures / name).is_dir():
                yield Location(name, pictures / video, truth, starts[int(part) - 1])
            else:
                yield Location(name, pictures / name, truth)


def _listed(file: Path) -> list[Location]:
    lines = [line.split("#")[0].strip() for line in read_text(file).splitlines()]
    lines = [line for line in lines if line]
    root = next((parent.parent for parent in file.parents if parent.name == "ImageSets"), None)
    if root is not None:  # DAVIS: names (2017), or pairs of pictures (2016)
        names = [Path(line.split()[0]).parent.name if "/" in line else line for line in lines]
        return list(_davis(root, list(dict.fromkeys(names))))
    missing = [line for line in lines if not (file.parent / line).exists()]
    if missing:
        raise FileNotFoundError(f"{file} lists {missing[0]!r}, which does not exist beside it")
    return [place for line in lines for place in locate_sequences(file.parent / line)]


def _visible(folder: Path) -> list[Path]:
    """Return the entries of a folder in natural order, without hidden ones."""
    entries = [entry for entry in folder.iterdir() if entry.name[0] not in "._"]
    return sorted(entries, key=lambda entry: natural_key(entry.name))
