"""Real frames of a camera, coded once and repeated for many cameras over a long time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial

from PIL import Image

from cloud.archive.records import Record
from edge.frames import FrameEncoder
from shared.bundle import Bundle
from shared.codec.frame import NAMED_BYTES, SESSION_BYTES, Packet, session_key
from shared.encoder import Encoder
from train.rooms import TEST_SEED_START
from train.rooms.sequence import render_sequence

SCENES = ("static", "person")
STARTED_AT = datetime(2026, 1, 1, tzinfo=UTC)
_SEED = TEST_SEED_START + 15


@dataclass(frozen=True)
class Stream:
    """The frames of one chunk: a frame I, then frames P and S. types: of each."""

    data: tuple[bytes, ...]
    types: tuple[str, ...]


def coded_streams(bundle: Bundle, frames: int) -> list[Stream]:
    """A still room with fresh noise, and one in which a person walks, a frame a second."""
    encoder = Encoder(bundle)
    size = bundle.manifest.preprocess
    streams = []
    for motion in SCENES:
        shown = render_sequence(_SEED, frames, fps=1, motion=motion, height=size.height, width=size.width)
        streams.append(_coded(encoder, [Image.fromarray(sample.image) for sample in shown.samples]))
    return streams


def _coded(encoder: Encoder, images: list[Image.Image]) -> Stream:
    bundle, data, types = encoder.bundle, [], []
    frames: FrameEncoder | None = None
    digests: dict[int, bytes] = {}
    for second, image in enumerate(images):
        front = encoder.read(image)
        if frames is None:
            fingerprint = bytes.fromhex(bundle.manifest.fingerprint)
            key = session_key(fingerprint, bytes(SESSION_BYTES), (front.u.shape[2], front.u.shape[3]))
            frames = FrameEncoder(encoder.frames, key, intra_every_s=float("inf"))
        extract = partial(encoder.latent, front.u)
        sent = frames.next(extract, bundle.quality(None), float(second))
        frames.confirm(sent.number)
        digests[sent.number] = sent.latent.digest
        name = None if sent.reference is None else digests[sent.reference][:NAMED_BYTES]
        data.append(Packet(bundle.fingerprint, sent.frame, None, name).pack())
        types.append(sent.frame.name)
    return Stream(tuple(data), tuple(types))


def records(streams: list[Stream], cameras: int, total: int) -> Iterator[Record]:
    """Records of cameras that send a frame a second each, in order of time."""
    length = len(streams[0].data)
    for i in range(total):
        second, camera = divmod(i, cameras)
        chunk, number = divmod(second, length)
        first = f"s.{camera:08x}{chunk:08x}.0"
        at = STARTED_AT + timedelta(seconds=second)
        record = Record(f"camera-{camera}", at + timedelta(milliseconds=200), first, b"", at)
        data = streams[camera % len(streams)].data[number]
        if number:
            record = replace(record, request_id=f"{first[:-1]}{number}", chunk=first)
        yield replace(record, data=data)


def ends_at(cameras: int, total: int) -> datetime:
    """After the last record."""
    return STARTED_AT + timedelta(seconds=-(-total // cameras) + 1)
