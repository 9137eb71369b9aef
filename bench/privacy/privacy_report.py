"""The report of `isthmus bench privacy`: a table, and a sheet of the drawings."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.report.metrics import METRICS
from bench.report.report import About, markdown, write_results
from bench.report.sections import Section
from shared.files import write_atomically
from shared.types import Frozen, TaskKind

NOTES = (
    "An attacker learns from pairs of an image and its latent, which anyone has who owns a camera with this bundle.",
    "u is the latent before it is rounded. PSNR and SSIM compare with the original at the drawings' size.",
    "What is recognised: each task's uncompressed network on the drawing, its answer on the original as the truth.",
    "Better attackers than these exist: a figure here is a lower bound of what the bytes give away.",
)


class Drawing(Frozen):
    """What an attacker drew from a source, over all images.

    source: "u", "quality Q", or empty where no bytes were used. bytes: mean of a whole bitstream. psnr_db, ssim: means.
    recognised: the headline metric of each task.
    """

    attacker: str
    source: str
    bytes: float | None
    psnr_db: float
    ssim: float
    recognised: dict[str, float]


class Privacy(Frozen):
    """All that was measured. learnt_from: images of the attackers. side: of the drawings, in pixels."""

    bundle: str
    fingerprint: str
    learnt_from: int
    side: int
    kinds: dict[str, TaskKind]
    drawings: tuple[Drawing, ...]
    about: About


def sections(privacy: Privacy) -> list[Section]:
    tasks = list(privacy.kinds)
    named = [f"{task}, {METRICS[privacy.kinds[task]].name}" for task in tasks]
    return [
        Section(
            title=f"Drawings of {privacy.side} x {privacy.side} by attackers that know {privacy.learnt_from} images",
            columns=("from", "attacker", "bytes", "PSNR, dB", "SSIM", *named),
            rows=tuple(_row(one, privacy, tasks) for one in privacy.drawings),
            notes=NOTES,
        )
    ]


def _row(one: Drawing, privacy: Privacy, tasks: list[str]) -> tuple[str, ...]:
    recognised = [METRICS[privacy.kinds[task]].text(one.recognised[task]) for task in tasks]
    size = "" if one.bytes is None else f"{one.bytes:.0f}"
    return (one.source or "-", one.attacker, size, f"{one.psnr_db:.1f}", f"{one.ssim:.3f}", *recognised)


def write_privacy(out: Path, privacy: Privacy, sheet: NDArray[np.float32]) -> None:
    """Writes results.json, results.md and sheet.png to `out`.

    sheet: (1 + D, M, 3, S, S) in 0..1: the originals, then each drawing's images; a row each.
    """
    made = sections(privacy)
    text = markdown(made, privacy.about, f"Privacy of `{privacy.bundle}`", "images")
    rows = ", ".join(["original", *(_label(one) for one in privacy.drawings)])
    write_results(out, privacy, made, f"{text}\nRows of sheet.png, from above: {rows}.\n")
    write_atomically(out / "sheet.png", _png(sheet))


def _label(one: Drawing) -> str:
    return f"{one.attacker} from {one.source}" if one.source else one.attacker


def _png(sheet: NDArray[np.float32]) -> bytes:
    rows, images, _, side, _ = sheet.shape
    pixels = (sheet.clip(0, 1) * 255).round().astype(np.uint8)
    tiled = pixels.transpose(0, 3, 1, 4, 2).reshape(rows * side, images * side, 3)
    data = io.BytesIO()
    Image.fromarray(tiled).save(data, "PNG")
    return data.getvalue()
