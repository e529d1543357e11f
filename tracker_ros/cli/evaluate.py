# SPDX-License-Identifier: Apache-2.0
"""Measure trackers on annotated sequences: success AUC, precision, failures, speed; J and F."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracker_ros import DEFAULT_MODEL
from tracker_ros.cli.options import (
    Command,
    add_json_option,
    add_model_options,
    model_arguments,
    print_json,
    progress_bar,
    write_json,
)
from tracker_ros.output_files import check_outputs, check_writable, write_whole
from tracker_ros.process import EndRequest

if TYPE_CHECKING:
    from tracker_ros.evaluation.metrics import MaskRow, MaskScore, SequenceScore
    from tracker_ros.evaluation.ope import AnswerCache, TrackedSequence
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
    parser.add_argument("--out", type=Path, default=None, metavar="DIR", help="folder for results")
    parser.add_argument(
        "--markdown", type=Path, default=None, metavar="FILE", help="write the full page here"
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
    """Track everything, score it, report."""
    from tracker_ros.evaluation.metrics import score_tracker
    from tracker_ros.evaluation.ope import AnswerCache
    from tracker_ros.evaluation.report import (
        Report,
        SequenceNote,
        describe_machine,
        mask_table,
        summary_table,
    )
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
    _tell_left_out(left_out)
    _check_names(sequences, args.models, args.option)
    _check_targets(args, weights)
    cache = AnswerCache.default()
    scores, notes, masks = [], {}, _best_boxes(sequences)
    end, failure = EndRequest(), None
    with progress_bar(
        total=len(args.models) * sum(len(sequence) for sequence in sequences), unit="frame"
    ) as bar:
        for name in args.models:
            done = _Scores(name)
            try:
                _evaluate(done, sequences, weights.get(name), args, cache, bar)
            except KeyboardInterrupt as interrupt:
                end.note(interrupt)
            except (ValueError, RuntimeError, OSError) as error:
                failure = error
            if done.scores:
                scores.append(score_tracker(name, done.scores))
                masks += done.mask_rows()
                notes.update({name: done.full_note} if done.full_note else {})
            left_out += [f"{name}: {sequence}: {why}" for sequence, why in done.failed.items()]
            if end or failure is not None:
                break
    if not scores:
        if failure is not None:
            raise failure
        if not end and not args.save:
            raise ValueError(f"no sequence could be scored: {'; '.join(left_out[:3])}")
        return end.status or (1 if left_out else 0)
    device = _resolved(args)
    report = Report(
        scores=tuple(scores),
        sequences=tuple(
            SequenceNote(
                sequence.name,
                len(sequence),
                str(sequence.about.get("dataset", "")),
                str(sequence.about.get("licence", "")),
            )
            for sequence in sequences
        ),
        machine=describe_machine(device),
        device=device,
        notes=notes,
        masks=tuple(masks),
        left_out=tuple(left_out),
        ended_by=str(failure) if failure is not None else end.name,
    )
    written = _write(report, args)
    if args.json:
        print_json(report.as_data())
    else:
        print(summary_table(scores))
        if masks:
            print(f"\n{mask_table(masks)}")
        for path in written:
            print(f"wrote {path}")
    if failure is not None:
        raise failure
    if end:
        print("tracker-ros evaluate: interrupted; these are the scores so far", file=sys.stderr)
    return end.status or (1 if left_out else 0)


def _check_forms(args: argparse.Namespace) -> None:
    """Refuse forms of results that are unknown or have no folder."""
    from tracker_ros.evaluation.result_files import FORMS

    for form in args.save:
        if form not in FORMS:
            raise ValueError(f"--save is {form!r}; give some of {', '.join(FORMS)}")
    if args.save and args.out is None:
        raise ValueError("--save writes results into a folder; give it with --out")


def _tell_left_out(faults: list[str]) -> None:
    """Print a line for each sequence that is left out."""
    for fault in faults:
        print(f"tracker-ros evaluate: left out: {fault}", file=sys.stderr)


def _check_targets(args: argparse.Namespace, weights: dict[str, str]) -> None:
    """Refuse outputs that are inputs, or that cannot be written."""
    outputs: dict[str, Path | None] = {"--markdown": args.markdown}
    if args.out is not None:
        names = ("results.json", "accuracy.md", "success.png")
        outputs |= {f"{name} in --out": args.out / name for name in names}
    inputs = {f"--weights {name}": file for name, file in weights.items()}
    inputs |= {f"PATH {path}": path for path in args.paths}
    check_outputs(outputs, inputs)
    check_writable(*(path for path in outputs.values() if path is not None))


@dataclass
class _Scores:
    """What is known of one tracker so far."""

    name: str
    note: str = ""
    failed: dict[str, str] = field(default_factory=dict)
    scores: list[SequenceScore] = field(default_factory=list)
    regions: list[MaskScore] = field(default_factory=list)
    regions_from_mask: list[MaskScore] = field(default_factory=list)

    @property
    def full_note(self) -> str:
        """The note, with the sequences that the tracker failed on."""
        failed = f"failed on {', '.join(self.failed)}" if self.failed else ""
        return ", ".join(filter(None, (self.note, failed)))

    def mask_rows(self) -> list[MaskRow]:
        """Return the rows of the table of masks."""
        from tracker_ros.evaluation.metrics import MaskRow

        label = self.name if self.regions_from_mask else f"{self.name}, box filled"
        rows = [
            (label, self.regions),
            (f"{self.name}, from the first mask", self.regions_from_mask),
        ]
        return [MaskRow(label, tuple(given)) for label, given in rows if given]


def _parse_weights(given: list[str], models: list[str]) -> dict[str, str]:
    """Return the files of `MODEL=FILE` pairs by model."""
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


def _evaluate(
    done: _Scores,
    sequences: list[AnnotatedSequence],
    weights: str | None,
    args: argparse.Namespace,
    cache: AnswerCache,
    bar: Any,
) -> None:
    """Run one tracker over all sequences; OpenCV's from the cache where it has them."""
    from tracker_ros.evaluation.baselines import BASELINES, OpenCvTracker
    from tracker_ros.evaluation.ope import run_ope

    name = done.name
    is_baseline = name in BASELINES
    tracker: Tracker | None = None
    key = f"{name} OpenCV {_opencv_version()}"
    for video in _videos(sequences):
        answers: dict[str, TrackedSequence] = {}
        for sequence in video:
            bar.set_description_str(f"{name} {sequence.name}", refresh=False)
            answer = cache.get(key, sequence) if is_baseline and not args.fresh else None
            if answer is not None:
                bar.update(len(sequence))
            else:
                if tracker is None and is_baseline:
                    tracker = OpenCvTracker(name)
                elif tracker is None:
                    tracker, done.note = _create_model(name, weights, args)
                assert tracker is not None
                with _one_sequence(done, sequence.name):
                    answer = run_ope(tracker, sequence, bar.update)
                if answer is not None and is_baseline:
                    cache.put(key, sequence, answer)
            if answer is not None:
                answers[sequence.name] = answer
        with _one_sequence(done, video[0].video or video[0].name):
            _score(done, video, answers, tracker, args)


def _videos(sequences: list[AnnotatedSequence]) -> list[list[AnnotatedSequence]]:
    """Group the sequences that are targets of one video."""
    videos: dict[str, list[AnnotatedSequence]] = {}
    for sequence in sequences:
        videos.setdefault(sequence.video or f"/{sequence.name}", []).append(sequence)
    return list(videos.values())


@contextlib.contextmanager
def _one_sequence(done: _Scores, name: str) -> Iterator[None]:
    """Note and print a failure on one sequence, so that the others go on.

    OpenCV raises exceptions of its own class, and the more exotic ones are not documented.
    """
    try:
        yield
    except Exception as error:
        done.failed[name] = str(error).strip().replace("\n", " ") or repr(error)
        print(
            f"tracker-ros evaluate: {done.name} failed on {name}: {done.failed[name]}",
            file=sys.stderr,
        )


def _score(
    done: _Scores,
    video: list[AnnotatedSequence],
    answers: dict[str, TrackedSequence],
    tracker: Tracker | None,
    args: argparse.Namespace,
) -> None:
    """Write and score the answers on the targets of one video."""
    from tracker_ros.evaluation.metrics import filled_boxes, score_masks, score_sequence
    from tracker_ros.evaluation.ope import run_objects
    from tracker_ros.geometry import visible

    from_masks: dict[str, TrackedSequence] = {}
    if (
        tracker is not None
        and len(answers) == len(video)
        and all(answer.masks for answer in answers.values())
    ):
        again = run_objects(tracker, video)
        from_masks = {s.name: answer for s, answer in zip(video, again, strict=True)}
    if answers and args.out is not None:
        _save(done.name, video, answers, from_masks, args)
    for sequence in video:
        answer = answers.get(sequence.name)
        if answer is None or not visible(sequence.boxes[1:]).any():
            continue
        done.scores.append(
            score_sequence(sequence.name, answer.boxes, sequence.boxes, answer.seconds)
        )
        if sequence.masks:
            masks = answer.masks or filled_boxes(answer.boxes, sequence)
            done.regions.append(score_masks(sequence, masks))
        if sequence.name in from_masks:
            masks = from_masks[sequence.name].masks
            done.regions_from_mask.append(score_masks(sequence, masks))


def _save(
    name: str,
    video: list[AnnotatedSequence],
    answers: dict[str, TrackedSequence],
    from_masks: dict[str, TrackedSequence],
    args: argparse.Namespace,
) -> None:
    """Write the answers in the forms asked for; boxes always."""
    from tracker_ros.evaluation.result_files import save_label_maps, save_results

    shift = 1.0 if args.one_based else 0.0
    for form in dict.fromkeys(["boxes", *args.save]):
        folder = args.out / form / name
        if form == "davis":
            told = [s for s in video if s.masks and s.name in answers]
            if told:
                best = from_masks or answers
                save_label_maps(folder, told, [best[sequence.name] for sequence in told])
            continue
        for sequence in video:
            if sequence.name in answers:
                save_results(folder, form, sequence, answers[sequence.name], shift)


def _best_boxes(sequences: list[AnnotatedSequence]) -> list[MaskRow]:
    """Score the filled true boxes, the best that boxes can reach, where there are masks."""
    from tracker_ros.evaluation.metrics import MaskRow, filled_true_boxes, score_masks

    with_masks = [sequence for sequence in sequences if sequence.masks]
    scores = [score_masks(sequence, filled_true_boxes(sequence)) for sequence in with_masks]
    return [MaskRow("true box, filled", tuple(scores))] if scores else []


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


def _write(report: Any, args: argparse.Namespace) -> list[Path]:
    """Write what was asked for; a success plot goes beside each page.

    Pages are left as they were if the evaluation was broken off.
    """
    from tracker_ros.evaluation.report import markdown_page, save_success_plot

    command = f"tracker-ros evaluate SEQUENCES --models {' '.join(args.models)}"
    pages = []
    written = []
    if args.out is not None:
        write_json(args.out / "results.json", report.as_data())
        written.append(args.out / "results.json")
    if report.ended_by:
        return written
    if args.out is not None:
        pages.append((args.out / "accuracy.md", Path("success.png")))
    if args.markdown is not None:
        page = args.markdown.name if args.markdown.is_absolute() else args.markdown
        command += f" --markdown {page}"
        pages.append((args.markdown, Path("media") / "success.png"))
    for page, plot in pages:
        picture = page.parent / plot
        try:
            save_success_plot(report.scores, picture)
        except ImportError as error:
            print(f"no success plot: {error}; pip install matplotlib", file=sys.stderr)
            plot_text = None
        else:
            plot_text = plot.as_posix()
            written.append(picture)
        write_whole(page, markdown_page(report, command, plot_text))
        written.append(page)
    return written


def _resolved(args: argparse.Namespace) -> str:
    """Return the device that the package's own models ran on."""
    from tracker_ros.evaluation.baselines import BASELINES

    if all(name in BASELINES for name in args.models):
        return "cpu"
    from tracker_ros.registry import resolve_device

    return str(resolve_device(args.device))


def _opencv_version() -> str:
    """Return version and architecture, all that decides the answers of OpenCV's trackers."""
    import cv2

    return f"{cv2.__version__} {os.uname().machine}"


EVALUATE = Command(
    "measure trackers on annotated sequences",
    "Measure trackers on annotated sequences: success AUC, precision, failures, speed; J and F.",
    add_arguments,
    run,
)
