# SPDX-License-Identifier: Apache-2.0
"""Follow targets through a recording of ROS, without a ROS graph."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracker_ros import DEFAULT_MODEL
from tracker_ros.cli.options import (
    Command,
    add_json_option,
    add_model_options,
    add_redetection_options,
    model_arguments,
    print_json,
    progress_bar,
    redetection_settings,
    write_json,
)
from tracker_ros.output_files import check_outputs, check_writable
from tracker_ros.process import EndRequest, hold_end_signals

if TYPE_CHECKING:
    from tracker_ros.bags.follow import BagSettings, BagTopics
    from tracker_ros.following.selection import Selection
    from tracker_ros.io.bag_reader import BagReader

_CAMERA_INFO = "sensor_msgs/msg/CameraInfo"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("bag", type=Path, help="rosbag2 folder, or an .mcap or .db3 file")
    image = "topic of the images: raw, compressed or packets of video (default: the only one)"
    parser.add_argument("--image", default="", metavar="TOPIC", help=image)
    out = "bag to write: NAME.mcap, NAME.db3, or a folder that is not there yet"
    parser.add_argument("--out", type=Path, metavar="BAG", help=out)
    parser.add_argument(
        "--with-input", action="store_true", help="copy the messages of the input into the bag"
    )
    parser.add_argument("--compress", action="store_true", help="compress the bag (MCAP, zstd)")
    namespace = "put the topics in a namespace: /NAME/target instead of /target"
    parser.add_argument("--namespace", default="", metavar="NAME", help=namespace)
    parser.add_argument("--results", type=Path, metavar="OUT.json", help="file for the results")
    add_json_option(parser)
    targets = parser.add_argument_group(
        "what to follow (default: what the bag's requests ask for)"
    )
    box = "a target on the first image: top-left corner and size in pixels; may be repeated"
    targets.add_argument(
        "--box", type=float, nargs=4, action="append", default=[], metavar=("X", "Y", "W", "H"),
        help=box,
    )  # fmt: skip
    at = "seconds from the first image to the one on which the boxes are (default: 0)"
    targets.add_argument("--at", type=float, default=0.0, metavar="SECONDS", help=at)
    selection = "topic of vision_msgs/Detection2D, each of which replaces the target; repeatable"
    targets.add_argument(
        "--selection", action="append", default=[], metavar="TOPIC", help=selection
    )
    targets.add_argument("--label", default="", help="what the targets of --box are")
    truth = parser.add_argument_group("where the target truly is")
    known = (
        "topic of Detection2D or Detection2DArray, or a text file with x, y, w, h for each image; "
        "the run is scored by it, and starts on its first box unless told otherwise"
    )
    truth.add_argument("--truth", default="", metavar="TOPIC|FILE", help=known)
    which = "id of the target's detections on that topic"
    truth.add_argument("--truth-id", default="", metavar="ID", help=which)
    record = "file for the run frame by frame beside the truth, for compare"
    truth.add_argument("--record", type=Path, metavar="OUT.json", help=record)
    model = parser.add_argument_group("how to follow")
    model.add_argument("--model", default=DEFAULT_MODEL, help="see models (default: %(default)s)")
    model.add_argument("--weights", help="safetensors file, if none is embedded")
    add_model_options(parser)
    add_redetection_options(parser, default=True)
    rate = (
        "play at this multiple of the recorded pace and leave images out as a node does; "
        "0 tracks every image, as fast as possible (default: %(default)s)"
    )
    model.add_argument("--rate", type=float, default=0.0, help=rate)
    grey = "counts of 16-bit grey that become black and white: auto, full or LOW,HIGH"
    model.add_argument("--mono16-range", default="auto", metavar="RANGE", help=grey)
    place = parser.add_argument_group("where targets are")
    info = "topic of the calibration (default: camera_info beside the images)"
    place.add_argument("--camera-info", default="", metavar="TOPIC", help=info)
    depth = "topic of depth images registered to the images, raw or compressedDepth"
    place.add_argument("--depth", default="", metavar="TOPIC", help=depth)
    size = "what the longer side of a target's box shows, metres: a distance without depth"
    place.add_argument("--target-size", type=float, default=0.0, metavar="METRES", help=size)
    place.add_argument("--rectified", action="store_true", help="the images are rectified")


def run(args: argparse.Namespace) -> int:
    """Follow, write and report."""
    from tracker_ros.bags.follow import follow_bag
    from tracker_ros.bags.output_bag import OutputBag
    from tracker_ros.bags.outputs import BagOutputs
    from tracker_ros.bags.results import BagResults
    from tracker_ros.io.bag_reader import open_bag
    from tracker_ros.registry import create_tracker

    _check(args)
    reader = open_bag(args.bag)
    topics = _topics(reader, args)
    truth = _Truth(reader, args) if args.truth else None
    first, settings = _selections(reader, topics, args, truth), _settings(args)
    if truth is not None and not args.box:
        settings = replace(
            settings, start_image=truth.start_image, start_stamp_ns=truth.start_stamp_ns
        )
    total = reader.topics[topics.image].count
    if not total:
        raise ValueError(f"topic {topics.image} of {str(args.bag)!r} has no messages")
    tracker = create_tracker(args.model, weights=args.weights, **model_arguments(args))
    tracker.warm_up()
    output = None
    if args.out is not None:
        outputs = BagOutputs(args.model, args.target_size)
        output = OutputBag(args.out, outputs, args.namespace, compress=args.compress)
    results, end = BagResults(), EndRequest()
    try:
        if output is not None and args.with_input:
            output.copy_input(reader, _tell)
        with hold_end_signals() as end, progress_bar(total=total, unit="image") as bar:
            for given in follow_bag(reader, topics, tracker, first, settings, _tell):
                if output is not None:
                    output.add(given)
                results.add(given)
                if given.report.frame is not None:
                    bar.update(given.report.frame.number - bar.n)
                if end:
                    break
        if output is not None:
            output.finish(complete=not end)
    except BaseException:
        if output is not None:
            output.discard()
        raise
    data = {
        "bag": str(args.bag),
        "image": topics.image,
        "model": args.model,
        **tracker.runtime_info,
        **results.summary(end.name),
        "unread": reader.refused,
    }
    written = [path for path in (args.out, args.results) if path is not None]
    if truth is not None:
        data["evaluation"] = truth.score(results.frames, topics.image, args)
        written += [] if args.record is None else [args.record]
    if args.results is not None:
        write_json(args.results, data)
    if args.json:
        print_json(data)
    else:
        _print_summary(data, written)
    for line in reader.refused:
        _tell(line)
    return end.status


def _tell(line: str) -> None:
    """Print what people should know of the input."""
    print(f"tracker-ros bag: {line}", file=sys.stderr)


def _check(args: argparse.Namespace) -> None:
    """Refuse numbers that mean nothing, and outputs that cannot be written."""
    from tracker_ros.io.bag_writer import check_bag_name

    for name in ("rate", "at", "target_size"):
        value = getattr(args, name)
        if not 0 <= value < float("inf"):
            raise ValueError(f"--{name.replace('_', '-')} is {value}; give a number, 0 or more")
    if args.with_input and args.out is None:
        raise ValueError("--with-input copies messages into the bag; give it with --out")
    if (args.truth_id or args.record) and not args.truth:
        raise ValueError("--truth-id and --record are about a truth; give it with --truth")
    outputs = {"--out": args.out, "--results": args.results, "--record": args.record}
    check_outputs(outputs, {"the bag": args.bag})
    check_writable(args.results, args.record)
    if args.out is not None:
        check_bag_name(args.out)


def _topics(reader: BagReader, args: argparse.Namespace) -> BagTopics:
    """Find the topics that were asked for, and those that go with the images."""
    from tracker_ros.bags.follow import BagTopics
    from tracker_ros.bags.requests import SELECTION_TYPES, find_selections
    from tracker_ros.io.bag_reader import find_topic
    from tracker_ros.io.image_messages import COMPRESSED_IMAGE, IMAGE, IMAGE_TYPES

    image = find_topic(reader, args.image, IMAGE_TYPES, "image")
    info, depth = args.camera_info, args.depth
    if info:
        info = find_topic(reader, info, [_CAMERA_INFO], "camera_info")
    else:
        info = _camera_info_beside(reader, image)
    if depth:
        depth = find_topic(reader, depth, [IMAGE, COMPRESSED_IMAGE], "depth")
    selections = tuple(
        (find_topic(reader, name, SELECTION_TYPES, "selection"), False) for name in args.selection
    )
    if not selections and not args.box:
        selections = find_selections(reader)
    return BagTopics(image, info, depth, selections)


def _camera_info_beside(reader: BagReader, image: str) -> str:
    """Return the topic that image_transport would take for the calibration; empty if none."""
    base = image
    while base:
        base = base.rpartition("/")[0]
        topic = reader.topics.get(f"{base}/camera_info")
        if topic is not None and topic.kind == _CAMERA_INFO:
            return topic.name
    return ""


def _selections(
    reader: BagReader, topics: BagTopics, args: argparse.Namespace, truth: _Truth | None
) -> list[Selection]:
    """Return the selections of --box, or of the truth where nothing else says what to follow."""
    from tracker_ros.following.selection import Selection
    from tracker_ros.geometry import parse_box

    if args.box:
        return [Selection(parse_box(box), label=args.label) for box in args.box]
    if not topics.selections and truth is not None:
        return [Selection(truth.first_box, label=args.label)]
    if not topics.selections:
        raise ValueError(
            f"nothing to follow: {str(args.bag)!r} holds no requests (selection, "
            "selection_append, select_target); give --box X Y W H, or the topic of a "
            "vision_msgs/Detection2D with --selection"
        )
    return []


def _settings(args: argparse.Namespace) -> BagSettings:
    from tracker_ros.bags.follow import BagSettings

    return BagSettings(
        rate=args.rate,
        redetection=redetection_settings(args),
        mono16_range=args.mono16_range,
        rectified=args.rectified,
        start_s=args.at,
    )


class _Truth:
    """Where the target truly is: by the images' stamps, or by their numbers."""

    def __init__(self, reader: BagReader, args: argparse.Namespace) -> None:
        from tracker_ros.bags.truth import truth_of_file, truth_of_topic

        self._by_number = args.truth not in reader.topics and Path(args.truth).is_file()
        if self._by_number:
            self._truth = truth_of_file(Path(args.truth))
        else:
            self._truth = truth_of_topic(reader, args.truth, args.truth_id)
        first = next((key for key in sorted(self._truth) if self._truth[key]), None)
        if first is None:
            raise ValueError(f"--truth {args.truth} has no box in any image")
        self.first_box = self._truth[first]
        self.start_image = first if self._by_number else 0
        self.start_stamp_ns = 0 if self._by_number else first

    def score(
        self, frames: list[dict[str, Any]], image: str, args: argparse.Namespace
    ) -> dict[str, Any]:
        """Return the scores of a run, and write its record if that was asked for."""
        import numpy as np

        from tracker_ros.bags.truth import match_truth
        from tracker_ros.evaluation.records import RunQuality, SequenceRecord

        begin = next((i for i, frame in enumerate(frames) if frame["targets"]), len(frames))
        begin = max(begin - 1, 0)
        taken = frames[begin:]
        if self._by_number:
            boxes, known = match_truth(self._truth, [frame["image"] for frame in taken], 0)
        else:
            boxes, known = match_truth(self._truth, [frame["stamp_ns"] for frame in taken])
        found = [frame["targets"][0] if frame["targets"] else {} for frame in taken]
        record = SequenceRecord(
            args.model,
            args.bag.stem,
            (f"bag:{args.bag.resolve()}:{image}",),
            np.array([frame["time_s"] for frame in taken]),
            boxes,
            known,
            np.array([one.get("box", [np.nan] * 4) for one in found]).reshape(-1, 4),
            np.array([one.get("score", 0.0) for one in found]),
            tuple(one.get("state", "IDLE") for one in found),
            np.array([frame["seconds"] for frame in taken]),
            taken[0]["image"] if taken else 0,
        )
        if args.record is not None:
            write_json(args.record, record.as_data())
        score = record.score()
        return {
            "frames": score.frames,
            "success_auc": score.auc,
            "precision": score.precision,
            "failures": score.failures,
            "mean_overlap": score.mean_overlap,
            **RunQuality.of(record).as_data(),
        }


def _print_summary(data: dict[str, Any], written: list[Path]) -> None:
    rate = data["frames_per_second"]
    speed = f", {rate:.1f} images/s" if rate else ""
    where = ", ".join(str(data[key]) for key in ("backend", "precision") if key in data)
    ended = "" if data["complete"] else " (interrupted)"
    print(
        f"{data['model']} ({where}) on {data['image']}: {data['frames_tracked']} of "
        f"{data['frames']} images tracked{speed}{ended}"
    )
    if "evaluation" in data:
        found = data["evaluation"]
        print(
            f"success AUC {found['success_auc']:.3f}, precision {found['precision']:.3f}, "
            f"lost {found['losses']} times ({found['never_found_again']} for good), false "
            f"TRACKING {_percent(found['false_tracking_share'])} on {found['frames']} images"
        )
    for change in data["state_changes"]:
        print(
            f"  {change['time_s']:8.2f} s  image {change['frame']:5d}  "
            f"target {change['target_id']}  {change['state']}"
        )
    for path in written:
        print(f"wrote {path}")
    sys.stdout.flush()


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{100 * share:.1f} %"


BAG = Command(
    "follow targets through a recording of ROS",
    "Follow targets through a bag and write the node's topics, without a ROS graph.",
    add_arguments,
    run,
)
