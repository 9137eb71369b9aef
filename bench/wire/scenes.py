"""The rooms that a camera looks at, as images of a bundle's size, and as PNG files for unary calls."""

from __future__ import annotations

import io
from itertools import repeat

from PIL import Image

from bench.wire.results import PERSON, REPEATED, STILL
from shared.bundle import Bundle
from train.rooms import TEST_SEED_START
from train.rooms.sequence import render_sequence

FPS = 5
SEED = TEST_SEED_START + 15


def scenes(bundle: Bundle, frames: int) -> dict[str, list[Image.Image]]:
    """The images of each scene: one picture again and again, a still room with fresh noise, and one with a person."""
    preprocess = bundle.manifest.preprocess

    def rendered(motion: str) -> list[Image.Image]:
        sequence = render_sequence(
            SEED, frames, fps=FPS, motion=motion, height=preprocess.height, width=preprocess.width
        )
        return [Image.fromarray(sample.image) for sample in sequence.samples]

    still = rendered("static")
    return {REPEATED: list(repeat(still[0], frames)), STILL: still, PERSON: rendered("person")}


def png_of(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
