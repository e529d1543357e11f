# SPDX-License-Identifier: Apache-2.0
"""Measure trackers on annotated sequences: success AUC, precision, failures, speed; J and F."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracker_ros import DEFAULT_MODEL
from tracker_ros.cli.options import (
    BAD_FRAMES,
    Command,
    add_json_option,
    add_model_options,
    add_redetection_options,
    model_arguments,
    print_beside_bar,
    progress_bar,
    redetection_settings,
    write_json,
)
from tracker_ros.output_files import check_outputs, check_writable
from tracker_ros.process import EndRequest

if TYPE_CHECKING:
    from tracker_ros.evaluation.distributed import Team
    from tracker_ros.evaluation.runner import Answers, Entry, Listener, TrackerRun
    from tracker_ros.evaluation.sequences import AnnotatedSequence
    from tracker_ros.tracker import Tracker


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="folder of one sequence or of many, a list of such folders, or synthetic[:SEED]",
    )
    parser.add_argument(
        "--models",
        nargs="+",
        default=[DEFAULT_MODEL],
        metavar="NAME",
        help=f"models, and OpenCV's csrt, kcf and mil (default: {DEFAULT_MODEL})",
    )
    parser.add_argument(
        "--weights",
        nargs="+",
        default=[],
        metavar="MODEL=FILE",
        help="safetensors file of a model; also measures other weights of an embedded one",
    )
    add_model_options(parser)
    add_redetection_options(parser, default=False)
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for results")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the full page here")
    page = "write a page in HTML that shows the runs: curves, table, film strips (needs --out)"
    parser.add_argument("--html", type=Path, metavar="PAGE", help=page)
    parser.add_argument(
        "--resume",
        action="store_true",
        help="keep the results of each sequence below --out, and track only what is missing there",
    )
    parser.add_argument(
        "--one-based", action="store_true", help="coordinates in the files count from 1"
    )
    parser.add_argument(
        "--fresh", action="store_true", help="run the OpenCV trackers again, not from the cache"
    )
    parser.add_argument(
        "--save",
        nargs="+",
        default=[],
        metavar="FORM",
        help="write results below --out as benchmarks read them: boxes (OTB, LaSOT, …), got10k, "
        "vot or davis; test splits with a first box only are tracked, too",
    )
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Track everything, score it, report; together with other processes under torchrun."""
    from tracker_ros.evaluation.distributed import join_team

    team = join_team()
    if team is None:
        return _run(args, None)
    status = _run(args, team)
    team.leave()
    return status


def _run(args: argparse.Namespace, team: Team | None) -> int:
    from tracker_ros.cli.evaluation_report import print_report
    from tracker_ros.evaluation.ope import AnswerCache
    from tracker_ros.evaluation.runner import TrackerRun, best_boxes
    from tracker_ros.evaluation.sequences import find_sequences

    weights = _parse_weights(args.weights, args.models)
    _check_forms(args)
    left_out: list[str] = []
    sequences = [
        sequence
        for path in args.paths
        for sequence in find_sequences(
            path,
            one_based=args.one_based,
            unannotated=bool(args.save),
            complain=left_out.append,
        )
    ]
    if team is None or team.is_first:
        for fault in left_out:
            print(f"tracker-ros evaluate: left out: {fault}", file=sys.stderr)
    _check_names(sequences, args.models, args.option)
    _check_targets(args, weights)
    cache = AnswerCache(args.out / "answers") if args.resume else AnswerCache.default()
    if team is not None:
        team.check_same(_command_of(args, sequences))
    best = best_boxes(sequences)
    end, failure = EndRequest(), None
    runs: list[TrackerRun] = []
    with progress_bar(
        total=len(args.models) * sum(len(sequence) for sequence in sequences),
        unit="frame",
        disable=team is not None and not team.is_first,
    ) as bar:
        listener = _listener(args, bar, team)
        for name in args.models:
            done = TrackerRun(_entry(name, weights.get(name), args))
            try:
                done.run(sequences, cache, listener)
                if team is not None:
                    team.gather(done, sequences, lambda: listener.frames(0))
            except KeyboardInterrupt as interrupt:
                end.note(interrupt)
            except (ValueError, RuntimeError, OSError) as error:
                failure = error
            runs.append(done)
            left_out += [f"{name}: {sequence}: {why}" for sequence, why in done.failed.items()]
            if end or failure is not None:
                break
    if team is not None and not team.is_first:
        if failure is not None:
            raise failure
        return end.status
    scored = [run for run in runs if run.scores]
    if scored:
        if args.out is not None:
            _write_records(args.out, runs)
        ended_by = str(failure) if failure is not None else end.name
        bad_frames = {run.entry.name: run.bad_frames for run in runs if run.bad_frames}
        print_report(args, sequences, scored, best, left_out, bad_frames, ended_by)
        if args.html is not None and not ended_by:
            _write_page(args, runs)
    elif failure is None and not end and not args.save:
        raise ValueError(f"no sequence could be scored: {'; '.join(left_out[:3])}")
    if failure is not None:
        raise failure
    if end and scored:
        print("tracker-ros evaluate: interrupted; these are the scores so far", file=sys.stderr)
    unread = any(run.bad_frames for run in runs)
    return end.status or (1 if left_out else BAD_FRAMES if unread else 0)


def _command_of(args: argparse.Namespace, sequences: Sequence[AnnotatedSequence]) -> str:
    """Return what must be the same in all processes."""
    given = [args.models, args.option, args.precision, args.backend, args.one_based, args.save]
    return f"{given} {[(sequence.name, len(sequence)) for sequence in sequences]}"


def _write_records(folder: Path, runs: Sequence[TrackerRun]) -> None:
    """Write the results frame by frame, for compare."""
    from tracker_ros.cli.compare import RECORDS

    for run in runs:
        for record in run.tracked:
            name = f"{record.sequence.replace('/', '_')}.json"
            write_json(folder / RECORDS / record.tracker / name, record.as_data())


def _write_page(args: argparse.Namespace, runs: Sequence[TrackerRun]) -> None:
    from tracker_ros.cli.compare import write_page
    from tracker_ros.evaluation.compare_page import ComparedRun

    compared = [
        ComparedRun(run.entry.name, {record.sequence: record for record in run.tracked})
        for run in runs
        if run.tracked
    ]
    write_page(args.html, compared, 8, f"{len(compared[0].records)} sequences")
    print(f"wrote {args.html}")


def _listener(args: argparse.Namespace, bar: Any, team: Team | None) -> Listener:
    """Return what moves the bar, prints failures and writes results."""
    from tracker_ros.evaluation.result_files import save_video
    from tracker_ros.evaluation.runner import Listener

    shift = 1.0 if args.one_based else 0.0
    forms = dict.fromkeys(["boxes", *args.save])

    def failed(tracker: str, sequence: str, why: str) -> None:
        print_beside_bar(f"tracker-ros evaluate: {tracker} failed on {sequence}: {why}")

    def unread(tracker: str, sequence: str, lines: Sequence[str]) -> None:
        for line in lines:
            print_beside_bar(f"tracker-ros evaluate: {tracker} on {sequence}: {line}")

    def answered(
        tracker: str, video: Sequence[AnnotatedSequence], answers: Answers, from_masks: Answers
    ) -> None:
        if args.out is not None:
            for form in forms:
                folder = args.out / form / tracker
                save_video(folder, form, video, answers, from_masks, shift)

    def frames(count: int) -> None:
        if team is None:
            bar.update(count)
            return
        team.count(count)
        if team.is_first:
            bar.update(team.counted() - bar.n)

    listener = Listener(
        started=lambda tracker, name: bar.set_description_str(f"{tracker} {name}", refresh=False),
        frames=frames,
        failed=failed,
        unread=unread,
        answered=answered,
    )
    return listener if team is None else replace(listener, claim=team.claim)


def _check_forms(args: argparse.Namespace) -> None:
    """Refuse forms of results that are unknown or have no folder."""
    from tracker_ros.evaluation.result_files import FORMS

    for form in args.save:
        if form not in FORMS:
            raise ValueError(f"--save is {form!r}; give some of {', '.join(FORMS)}")
    if args.save and args.out is None:
        raise ValueError("--save writes results into a folder; give it with --out")
    if args.resume and args.out is None:
        raise ValueError("--resume keeps results in a folder; give it with --out")


def _check_targets(args: argparse.Namespace, weights: dict[str, str]) -> None:
    """Refuse outputs that are inputs, or that cannot be written."""
    outputs: dict[str, Path | None] = {"--markdown": args.markdown, "--html": args.html}
    if args.out is not None:
        names = ("results.json", "accuracy.md", "success.png")
        outputs |= {f"{name} in --out": args.out / name for name in names}
    inputs = {f"--weights {name}": file for name, file in weights.items()}
    inputs |= {f"PATH {path}": path for path in args.paths}
    check_outputs(outputs, inputs)
    check_writable(*outputs.values())


def _parse_weights(given: list[str], models: list[str]) -> dict[str, str]:
    weights = {}
    for text in given:
        name, equals, file = text.partition("=")
        if not equals or name not in models:
            raise ValueError(
                f"--weights has {text!r}; write MODEL=FILE with one of --models: "
                f"{', '.join(models)}"
            )
        if not Path(file).is_file():
            raise FileNotFoundError(f"no weights at {file!r} (for {name})")
        weights[name] = file
    return weights


def _check_names(
    sequences: list[AnnotatedSequence], models: list[str], options: list[str]
) -> None:
    """Refuse what would overwrite itself, and unknown models, before anything runs."""
    from tracker_ros.evaluation.baselines import BASELINES
    from tracker_ros.registry import list_models

    known = [*list_models(), *BASELINES]
    for name in models:
        if name not in known:
            raise ValueError(f"model {name!r} is unknown; expected one of {', '.join(known)}")
        if models.count(name) > 1:
            raise ValueError(f"--models names {name!r} more than once")
    if options and not set(models) - set(BASELINES):
        raise ValueError(f"--option {options[0]} is for models, and {models[0]} has none")
    names = [sequence.name for sequence in sequences]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two sequences are called {name!r}; rename one, or give it once")


def _entry(name: str, weights: str | None, args: argparse.Namespace) -> Entry:
    """Return a model, or one of OpenCV's trackers, of which results may come from the cache."""
    import cv2

    from tracker_ros.evaluation.baselines import BASELINES, OpenCvTracker
    from tracker_ros.evaluation.runner import Entry

    if name in BASELINES:
        # Version and architecture decide the answers of OpenCV's trackers.
        key = f"{name} OpenCV {cv2.__version__} {os.uname().machine}"
        return Entry(name, lambda: (OpenCvTracker(name), ""), key, args.fresh)
    key = _key_of(name, weights, args) if args.resume else ""
    redetection = redetection_settings(args)
    return Entry(name, lambda: _create_model(name, weights, args), key, args.fresh, redetection)


def _key_of(name: str, weights: str | None, args: argparse.Namespace) -> str:
    """Return all that decides the results of a model, to know them again."""
    from tracker_ros import __version__
    from tracker_ros.checkpoints import sha256_of
    from tracker_ros.registry import model_card

    digest = sha256_of(weights) if weights is not None else model_card(name).sha256 or ""
    how = [args.device, args.backend, args.precision, str(args.engine_cache or ""), *args.option]
    how += [repr(redetection_settings(args))]
    return f"{name} {digest} {__version__} {' '.join(how)}"


def _create_model(name: str, weights: str | None, args: argparse.Namespace) -> tuple[Tracker, str]:
    """Load one of the package's models, and say which weights it runs with."""
    from tracker_ros.checkpoints import sha256_of
    from tracker_ros.registry import create_tracker, model_card

    tracker = create_tracker(name, weights=weights, **model_arguments(args))
    tracker.warm_up()
    options = "".join(f", {option}" for option in args.option)
    if weights is not None:
        digest, origin = sha256_of(weights), f"weights `{Path(weights).name}`"
    else:
        digest, origin = model_card(name).sha256 or "", "embedded weights"
    return tracker, origin + (f", sha256 {digest[:16]}…" if digest else "") + options


EVALUATE = Command(
    "measure trackers on annotated sequences",
    "Measure trackers on annotated sequences: success AUC, precision, failures, speed; J and F.",
    add_arguments,
    run,
)
