"""What the measurements say about codecs: joint and separate ones, levels and single rates, priors."""

from __future__ import annotations

from collections.abc import Mapping
from math import isclose, log
from typing import Literal

from bench.report.curves import Curve, Read, bd_rate, saving_of
from bench.report.sections import Section, Target
from bench.rooms.parts import ALONE, PRIORS, SINGLE, Level, MeasuredPart, Parts

RUN_BYTES = "Bytes are the float model's, of rounded latents, without container."
EXCESS_MAX = 0.05  # bytes of a level over those of a codec trained for its lambda alone

By = Literal["metric", "distortion"]


def joint_against_separate(parts: Parts, folder: str = "codec") -> Section:
    """Bytes of one stream for several tasks, against what a codec for each task needs for the same quality of each."""
    joint = parts[folder]
    tasks = [
        task
        for kind, single in SINGLE.items()
        if single in parts and (task := joint.task_of(kind)) is not None
    ]
    rows, targets = [], []
    for level in joint.levels:
        cells = [joint.label(level.quality), f"{level.bytes:.1f}"]
        ways: tuple[By, ...] = ("metric", "distortion")
        for by in ways:
            reads = [
                _single_bytes(parts[SINGLE[joint.kinds[task]]], joint, level, task, by) for task in tasks
            ]
            saving = saving_of(level.bytes, reads)
            cells += [" + ".join(read.text() for read in reads), saving.text]
            if level.quality == joint.default_quality:
                what = f"{len(tasks)} tasks, joint against separate at the default quality, equal {by}"
                targets.append(Target(what=what, target=">= 30 % fewer", reached=saving.text, met=saving.met))
        rows.append(tuple(cells))
    return Section(
        columns=("quality", "joint bytes", "at equal metric", "saving", "at equal distortion", "saving"),
        rows=rows,
        notes=(
            f"Single-task codecs: {' + '.join(tasks)}. {RUN_BYTES}",
            "> and <: the quality lies beyond the single codec's curve, whose last bytes are given; nothing is "
            "extrapolated. Distortion: the training's own, against the uncompressed network's output.",
        ),
        targets=targets,
    )


def _quality(part: MeasuredPart, level: Level, task: str, by: By) -> float:
    """More is better."""
    if by == "metric":
        return part.goodness(level, task)
    return _closeness(level.metrics[task]["distortion"])


def _single_bytes(single: MeasuredPart, joint: MeasuredPart, level: Level, task: str, by: By) -> Read:
    """Bytes that the single-task codec needs for what the joint one reaches at a level."""
    own = single.task_of(joint.kinds[task])
    assert own is not None
    curve = Curve.of((one.bytes, _quality(single, one, own, by)) for one in single.levels)
    return curve.bytes_at(_quality(joint, level, task, by))


def levels_alone(parts: Parts, folder: str = "codec") -> Section:
    """Levels of one codec, the run in `folder`, against codecs of one level that were trained for its lambda alone."""
    joint = parts[folder]
    curve = _curve(joint, joint.lambdas)
    rows, notes, within = [], [], 0
    for name in (name for name in ALONE if name in parts):
        alone = parts[name]
        level = _level_of_lambda(joint, alone)
        if level is None:
            notes.append(f"{name}: {folder} has no level of its lambda")
            continue
        if joint.seen and alone.seen:
            notes.append(
                f"Images seen in training: {name} {alone.seen:,}; {folder} {joint.seen:,}, for each of its "
                f"{len(joint.levels)} levels {joint.seen // len(joint.levels):,}"
            )
        (own,) = alone.levels
        losses = [one.bytes * 8 + alone.scales[0] * _weighted(alone.lambdas, one) for one in (level, own)]
        at = curve.bytes_at(_closeness(_weighted(joint.lambdas, own)))
        excess = None if at.side else at.value / own.bytes - 1
        within += excess is not None and excess <= EXCESS_MAX
        rows.append(
            (
                f"{name} ({_lambdas(alone)})",
                f"{own.bytes:.1f}",
                f"{level.bytes:.1f} at quality {level.quality}",
                f"{losses[0] / losses[1] - 1:+.1%}",
                at.text(),
                "beyond the levels" if excess is None else f"{excess:+.1%}",
            )
        )
    return Section(
        columns=("codec", "its bytes", "the level's", "loss", "bytes at its distortion", "against it"),
        rows=rows,
        notes=(f"Loss: bits + sum of lambda d, of the level against the codec alone. {RUN_BYTES}", *notes),
        targets=(
            Target(
                what=f"levels of {folder} within 5 % of a codec of their lambda alone",
                target="at least 2",
                reached=f"{within} of {len(rows)}",
                met=within >= 2 if len(rows) >= 2 else None,
            ),
        ),
    )


def priors(parts: Parts, folders: Mapping[str, str] = PRIORS) -> Section:
    """The codec with the codebook prior against codecs with other priors. folders: of the runs, by prior."""
    reference = parts[folders["codebook"]]
    present = {
        name: parts[folder]
        for name, folder in folders.items()
        if folder in parts and parts[folder].kinds == reference.kinds
    }
    curves = {name: _curve(part, reference.lambdas) for name, part in present.items()}
    rows = []
    for level in reference.levels:
        distortion = _weighted(reference.lambdas, level)
        reads = {name: curve.bytes_at(_closeness(distortion)) for name, curve in curves.items()}
        cells = [reference.label(level.quality), f"{distortion:.4g}", f"{level.bytes:.1f}"]
        rows.append((*cells, *(reads[name].text() for name in present if name != "codebook")))
    means: list[str] = []
    for name, curve in curves.items():
        if name != "codebook":
            rate = bd_rate(curves["codebook"], curve)
            means.append("no common range" if rate is None else f"{rate:+.1%}")
    rows.append(("mean (BD-rate)", "", "0 %", *means))
    return Section(
        columns=("quality", "sum of lambda d", *(f"{name} bytes" for name in present)),
        rows=rows,
        notes=(f"Bytes at the distortion of the codebook's levels; +: more than the codebook. {RUN_BYTES}",),
    )


def _weighted(lambdas: Mapping[str, float], level: Level) -> float:
    """Sum of lambda d over the tasks."""
    return sum(lambda_ * level.metrics[task]["distortion"] for task, lambda_ in lambdas.items())


def _closeness(distortion: float) -> float:
    """More is better; logarithmic, so that a tenth less distortion counts the same everywhere on the curve."""
    return -log(max(distortion, 1e-12))


def _curve(codec: MeasuredPart, lambdas: Mapping[str, float]) -> Curve:
    return Curve.of((level.bytes, _closeness(_weighted(lambdas, level))) for level in codec.levels)


def _level_of_lambda(joint: MeasuredPart, alone: MeasuredPart) -> Level | None:
    """The level of `joint` that was trained for the lambdas of `alone`, which has one level."""
    if joint.lambdas.keys() != alone.lambdas.keys():
        return None
    for scale, level in zip(joint.scales, joint.levels, strict=True):
        if all(
            isclose(scale * joint.lambdas[task], alone.scales[0] * alone.lambdas[task], rel_tol=1e-6)
            for task in alone.lambdas
        ):
            return level
    return None


def _lambdas(codec: MeasuredPart) -> str:
    return "lambda " + ", ".join(f"{codec.scales[0] * value:g}" for value in codec.lambdas.values())
