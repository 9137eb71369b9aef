"""What a server's sessions leave in an archive, and what a replay makes of it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest

from cloud.archive.chunks import Chunks, Opened
from cloud.archive.frames import FrameReader, Known
from cloud.archive.records import Head, Record, read, reading
from cloud.engine.load import load
from cloud.sessions.session import FrameJob, Session, SessionLimits, Settled
from shared.codec.frame_codec import Coded, FrameCodec, Latent
from shared.codec.latent_codec import LatentCodec
from shared.types import TaskQuery
from support.archives import archive_at, at, put
from support.coded_sessions import CodedSession, made_up_bundle, moments
from support.context_bundle import with_context
from support.context_tensors import context_tensors
from support.processes import run_here
from support.random_codec import random_tensors
from support.session_ends import (
    FINGERPRINT,
    GRID,
    QUALITY,
    CloudEnd,
    EdgeEnd,
    N,
    V,
    changed_latent,
    open_of,
    random_latent,
)

CODEC = LatentCodec(random_tensors(0, n=N, v_size=V, qualities=(QUALITY,)) | context_tensors(seed=0))


class Kept:
    """A session between two ends; what the cloud's end accepts becomes records, in the order in which it does."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.opened = open_of(session=bytes([seed]) * 16, camera=f"c{seed}")
        codec = FrameCodec(CODEC)
        self.cloud = CloudEnd(codec, self.opened, SessionLimits(references_max=5))
        self.edge = EdgeEnd(codec, self.opened)
        self.said: dict[str, Latent] = {}
        self.known: list[Latent] = []  # what the edge has had an answer for
        self.running: list[FrameJob] = []
        self.records: list[Record] = []
        self.number = 0

    def step(self, when: int) -> None:
        """Sends a frame, or lets the cloud finish one of those in work."""
        if self.running and self.rng.random() < 0.5:
            job = self.running.pop(self.rng.integers(len(self.running)))
            self._settled(job.number, self.cloud.finish(job), when)
            return
        self.number += 1
        data, latent = self._frame()
        self.said[self.opened.request_id(self.number)] = latent
        given = self.session.receive(self.number, data)
        if isinstance(given, FrameJob):
            self.running.append(given)
        else:
            assert given is not None
            self._settled(self.number, given, when)

    @property
    def session(self) -> Session:
        return self.cloud.session

    def _frame(self) -> tuple[bytes, Latent]:
        number, seed = self.number, int(self.rng.integers(1 << 30))
        old = self.known[-1 - int(self.rng.integers(min(8, len(self.known))))] if self.known else None
        kind = self.rng.integers(10)
        if old is None or kind < 1:
            latent = random_latent(seed)
            return self.edge.intra(number, latent), latent
        if kind < 2:
            latent = random_latent(seed, base=True)
            return self.edge.intra(number, latent), latent
        if kind < 5:
            return self.edge.same(number, old), old
        if old.z is None:
            latent = Latent(old.v, random_latent(seed).z, GRID, QUALITY)
            return self.edge.refinement(number, latent), latent
        latent = changed_latent(old, seed)
        return self.edge.predicted(number, latent, old, own_v=bool(kind % 2)), latent

    def _settled(self, number: int, settled: Settled, when: int) -> None:
        request_id = self.opened.request_id(number)
        if settled.accepted is None:  # its reference has gone meanwhile
            return
        packet, chunk = settled.accepted.packet, settled.accepted.chunk
        self.records.append(Record(self.opened.camera, at(when), request_id, packet, None, chunk))
        self.known.append(self.said[request_id])


def latent_of(one: Opened) -> Latent:
    if isinstance(one.content, Known):
        return one.content.latent
    assert isinstance(one.content, Coded), one.content
    (latent,) = FrameCodec(CODEC).decode([one.content])
    assert isinstance(latent, Latent)
    return latent


@pytest.mark.parametrize("seed", range(5))
def test_what_sessions_accept_is_replayed_from_every_time_on(tmp_path: Path, seed: int) -> None:
    """Frames in flight, out of order, some refused because the server holds few references."""
    some = [Kept(3 * seed + i) for i in range(3)]
    for i in range(150):
        some[i % 3].step(i)
    records = sorted((one for kept in some for one in kept.records), key=lambda one: one.received_at)
    said = {one: latent for kept in some for one, latent in kept.said.items()}
    assert 60 < len(records) < sum(len(kept.said) for kept in some)
    with archive_at(tmp_path) as archive:
        put(archive, *records)
    reader = FrameReader(made_up_bundle(FINGERPRINT, GRID), CODEC, 64)
    for since in moments(records)[::7]:
        with reading(tmp_path) as db:
            frames = list(Chunks(Head(tmp_path, db), reader).open(read(tmp_path, since)))
        assert len(frames) == sum(one.received_at >= since for one in records)
        for one in frames:
            assert latent_of(one).digest == said[one.record.request_id].digest


async def test_the_command_answers_frames_of_every_type(tmp_path: Path, tiny_bundle: Path) -> None:
    bundle = await asyncio.to_thread(with_context, tiny_bundle, tmp_path / "bundle")
    model = (await asyncio.to_thread(load, bundle)).model
    h, w = bundle.manifest.codec["grid"]
    levels = bundle.levels
    session = CodedSession(
        "door",
        3,
        grid=(h, w),
        codec=FrameCodec(model.codec),
        tensors=bundle.entropy(),
        mark=bundle.fingerprint,
        qualities=(levels.lowest, levels.highest),
    )
    records = [session.intra(0), *(session.predicted(i) for i in range(1, 20)), session.same(20)]
    records += [session.intra(21, base=True), session.refinement(22), session.predicted(23)]
    with archive_at(tmp_path / "kept") as archive:
        put(archive, *records)
    expected = {}
    for name, latent in session.latents.items():
        if latent.z is not None:
            query = TaskQuery(name="classification", top_k=1)
            [answer] = model.answer(latent.z[None], [[query]], [latent.quality])
            expected[name] = answer["classification"].top[0].score  # type: ignore[attr-defined]
    out = tmp_path / "out.jsonl"
    for since in (0, 10, 20):
        command = ["cloud", "replay", "--archive", tmp_path / "kept", "--task", "classification"]
        command += ["--from", at(since).isoformat(), "--to", "2999-01-01", "--bundle", bundle.path]
        done = await asyncio.to_thread(run_here, *command, "--out", out, "--top-k", "1", "--force")
        assert done.returncode == 0, done.stderr
        assert f"{23 - since} answered, 1 not" in done.stdout
        lines = [json.loads(line) for line in out.read_text().splitlines()]
        assert [line["request_id"] for line in lines] == [one.request_id for one in records[since:]]
        for line in lines:
            if line["frame"] == "I base":  # this bundle's base answers nothing
                assert "only the base" in line["error"]["detail"]
            else:
                score = line["result"]["top"][0]["score"]
                assert score == pytest.approx(expected[line["request_id"]], abs=1e-5)
    frames = {line["frame"] for line in lines}
    assert frames == {"S", "I base", "I refinement", "P"}
