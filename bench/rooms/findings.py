"""All claims of `isthmus bench rooms`, with the folders that each needs. Computes, and measures nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

from bench.report.sections import Section
from bench.rooms.bundle_findings import added_later, at_its_levels, rate_span, uncompressed
from bench.rooms.codec_findings import joint_against_separate, levels_alone, priors
from bench.rooms.parts import (
    ALONE,
    BUNDLE_CODEC,
    CONTEXT_PRIORS,
    LONGER_PRIORS,
    NETWORKS,
    PRIORS,
    SINGLE,
    Parts,
)


class Finding(NamedTuple):
    """A section, the folders that it cannot do without, and those that it uses where they exist."""

    title: str
    needs: tuple[str, ...]
    uses: tuple[str, ...]
    make: Callable[[Parts], Section]


FINDINGS = (
    Finding("Uncompressed networks", (), tuple(NETWORKS), uncompressed),
    Finding("The bundle at its levels", ("bundle",), tuple(NETWORKS), at_its_levels),
    Finding(
        "Joint against separate",
        ("codec", SINGLE["classification"], SINGLE["normals"]),
        (),
        joint_against_separate,
    ),
    Finding(
        "Joint against separate, with segmentation",
        ("with-segmentation", *SINGLE.values()),
        (),
        partial(joint_against_separate, folder="with-segmentation"),
    ),
    Finding("Rate from one bundle", ("bundle",), (), rate_span),
    Finding("A level against a codec of its lambda alone", ("codec",), ALONE, levels_alone),
    Finding(
        "A level of the bundle's codec against a codec of its lambda alone",
        (BUNDLE_CODEC,),
        ALONE,
        partial(levels_alone, folder=BUNDLE_CODEC),
    ),
    Finding("Codebook hyperprior against other priors", ("codec",), tuple(PRIORS.values()), priors),
    Finding(
        "Codebook hyperprior against other priors, trained longer",
        (LONGER_PRIORS["codebook"],),
        tuple(LONGER_PRIORS.values()),
        partial(priors, folders=LONGER_PRIORS),
    ),
    *(
        Finding(
            f"Codebook against other priors, all with the same context, seed {seed}",
            (folders["codebook"],),
            tuple(folders.values()),
            partial(priors, folders=folders),
        )
        for seed, folders in CONTEXT_PRIORS.items()
    ),
    Finding("A task added later", ("bundle",), ("with-segmentation",), added_later),
)


def findings(parts: Parts, missing: Mapping[str, str]) -> list[Section]:
    """All sections. missing: why a folder was not measured, by folder."""
    sections = []
    for finding in FINDINGS:
        absent = tuple(
            f"not measured: {missing[name]}" for name in (*finding.needs, *finding.uses) if name in missing
        )
        if any(name in missing for name in finding.needs):
            sections.append(Section(title=finding.title, notes=absent))
        else:
            made = finding.make(parts)
            sections.append(made.model_copy(update={"title": finding.title, "notes": (*made.notes, *absent)}))
    return sections
