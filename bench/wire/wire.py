"""`isthmus bench wire`: what a frame costs on the link, both directions, container, protobuf, gRPC and HTTP/2 included.

    rendered rooms -> Encoder -> edge's client -> counting proxy -> a cloud's process            plain
                                 edge's client -> TLS -> counting proxy -> TLS -> the same       TLS
                                 a camera box (`bench.wire.box`) -> the same                     plain

One frame at a time: the next is sent once the last is answered and nothing passes any more, so that each byte belongs
to a frame. Where answers may wait, frames follow at a camera's pace instead, and what passes until the next one counts
for each. The first frames are left out: they open the session, and have nothing to refer to.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from rich.progress import Progress

from bench.report.report import About
from bench.wire.box import through_box
from bench.wire.counting import CountingProxy, counting_proxy
from bench.wire.results import PERSON, STILL, WAYS, BoxCourse, Course, FrameCost, LinkKind, Way, Wire
from bench.wire.scenes import FPS, png_of, scenes
from bench.wire.tls import tls_link, tls_missing
from bench.wire.wire_report import write_wire
from edge.client import Client, grpc_transport
from edge.session import CameraSession
from edge.session_stream import SessionStream
from edge.settings import CloudLink, SessionSettings
from shared.bundle import Bundle
from shared.encoder import Encoder
from shared.process.child_process import ISTHMUS, server
from shared.session_packets import SessionOpen, new_session
from shared.types import Wanted, new_request_id

QUIET_S = 0.01
NEVER_S, ALWAYS_S = 1e9, 1e-9  # between frames I
DEADLINE_MS = 120_000
CAMERA = "door"
STARTED_AT = datetime(2026, 1, 1, 12, tzinfo=UTC)


@dataclass(frozen=True)
class WirePlan:
    """What is measured. skipped: frames before counting begins. counted: after them, of each course.

    box_s: seconds of each scene through a camera box; 0: none.
    """

    bundle: Path
    out: Path
    skipped: int
    counted: int
    quality: int | None = None
    hold: float | None = None
    fps: float = FPS
    tls: bool = True
    box_s: float = 0.0


class Mark(NamedTuple):
    """All that has passed at one time: bytes, and of them by type of HTTP/2 frame."""

    up: int
    down: int
    http2: tuple[Counter[str], Counter[str]]


@dataclass(frozen=True)
class Run:
    """One course, to be run."""

    plan: WirePlan
    encoder: Encoder
    way: Way
    scene: str
    link: LinkKind
    proxy: CountingProxy

    def mark(self) -> Mark:
        up, down = self.proxy.up, self.proxy.down
        return Mark(up.size, down.size, (up.frames.copy(), down.frames.copy()))

    def course(self, marks: Sequence[Mark], answers: Sequence[tuple[str, bool, int]]) -> Course:
        """What was measured. marks: before each image and after the last. answers: as `Ask` gives them."""
        skipped = self.plan.skipped
        costs = [
            FrameCost(
                frame=frame,
                as_before=as_before,
                payload=payload,
                up=after.up - before.up,
                down=after.down - before.down,
            )
            for (before, after), (frame, as_before, payload) in zip(pairwise(marks), answers, strict=True)
        ]
        spent = [last - first for first, last in zip(marks[skipped].http2, marks[-1].http2, strict=True)]
        up, down = (
            {name: size / (len(costs) - skipped) for name, size in sorted(one.items())} for one in spent
        )
        return Course(
            way=self.way,
            scene=self.scene,
            link=self.link,
            opening_up=costs[0].up,
            opening_down=costs[0].down,
            frames=tuple(costs[skipped:]),
            http2_up=up,
            http2_down=down,
        )


# One image and when it was captured -> how it was sent, whether the answer was "as before", and b_v + b_z.
Ask = Callable[[Image.Image, datetime], Awaitable[tuple[str, bool, int]]]


def bench_wire(plan: WirePlan, command: str) -> Wire:
    """Measures, and writes the report to `plan.out`. Raises IsthmusError."""
    encoder = Encoder(Bundle.open(plan.bundle))
    images = scenes(encoder.bundle, plan.skipped + plan.counted)
    missing = tls_missing() if plan.tls else "left out"
    options = ("--bundle", str(plan.bundle.resolve()), "--grpc-port", "0", "--http-port", "0", "--insecure")
    with server("cloud", [*ISTHMUS, "cloud", "serve", *options]) as cloud:
        address = cloud.wait_for("listening")["grpc"]
        cloud.wait_for("ready")
        boxes = asyncio.run(_boxes(plan, images, address)) if plan.box_s else []
        courses = asyncio.run(_all_courses(plan, encoder, images, address, not missing))
    wire = Wire(
        about=About.now(command, plan.counted),
        bundle=encoder.bundle.manifest.name,
        quality=encoder.bundle.quality(plan.quality),
        hold=encoder.bundle.hold(plan.hold),
        fps=plan.fps,
        sticky=encoder.sticky,
        predicts=encoder.frames.predicts,
        skipped=plan.skipped,
        courses=tuple(courses),
        boxes=tuple(boxes),
        missing=missing,
    )
    write_wire(plan.out, wire)
    return wire


async def _boxes(plan: WirePlan, images: dict[str, list[Image.Image]], address: str) -> list[BoxCourse]:
    return [
        await through_box(plan.bundle, images[scene], scene, address, FPS, plan.box_s)
        for scene in (STILL, PERSON)
    ]


async def _all_courses(
    plan: WirePlan,
    encoder: Encoder,
    images: dict[str, list[Image.Image]],
    address: str,
    tls: bool,
) -> list[Course]:
    links: tuple[LinkKind, ...] = ("plain", "TLS") if tls else ("plain",)
    chosen = [
        (link, way, scene)
        for link in links
        for way in WAYS
        for scene in ((STILL, PERSON) if way.intra or not way.session else images)
    ]
    courses = []
    with Progress() as progress:
        for link, way, scene in progress.track(chosen, description="bench wire"):
            async with AsyncExitStack() as stack:
                if link == "TLS":
                    near, proxy = await stack.enter_async_context(tls_link(address))
                else:
                    proxy = await stack.enter_async_context(counting_proxy(address))
                    near = proxy.address
                run = Run(plan, encoder, way, scene, link, proxy)
                opened = _paced if way.wait_ms else _session if way.session else _unary
                ask = await stack.enter_async_context(opened(run, near))
                course = run_paced if way.wait_ms else run_course
                courses.append(await course(run, images[scene], ask))
    return courses


async def run_course(run: Run, images: Sequence[Image.Image], ask: Ask) -> Course:
    """Sends the images of a scene one by one, each once the last is answered and nothing passes any more."""
    marks, answers = [run.mark()], []
    for number, image in enumerate(images):
        answers.append(await ask(image, _captured_at(number)))
        await run.proxy.quiet(QUIET_S)
        marks.append(run.mark())
    return run.course(marks, answers)


async def run_paced(run: Run, images: Sequence[Image.Image], ask: Ask) -> Course:
    """Sends the images of a scene at a camera's pace, whether or not the ones before are answered."""
    now, began = asyncio.get_running_loop().time, asyncio.get_running_loop().time()
    marks, answers = [], []
    for number, image in enumerate(images):
        await asyncio.sleep(began + number / run.plan.fps - now())
        marks.append(run.mark())
        answers.append(asyncio.create_task(ask(image, _captured_at(number))))
    await asyncio.sleep(began + len(images) / run.plan.fps - now())
    marks.append(run.mark())
    return run.course(marks, await asyncio.gather(*answers))


def _captured_at(number: int) -> datetime:
    return STARTED_AT + timedelta(seconds=number / FPS)


@asynccontextmanager
async def _session(run: Run, address: str) -> AsyncIterator[Ask]:
    """Asks in a session of the edge's own client."""
    plan, way = run.plan, run.way
    settings = SessionSettings(
        hold=plan.hold, intra_every_s=ALWAYS_S if way.intra else NEVER_S, replies=way.replies
    )
    async with CameraSession(run.encoder, _link(address), settings, camera=CAMERA) as session:

        async def ask(image: Image.Image, captured_at: datetime) -> tuple[str, bool, int]:
            answer = await session.analyze(image, plan.quality, captured_at)
            size = answer.analysis.bytes
            return answer.frame, answer.same_as is not None, size.b_v + size.b_z

        yield ask


@asynccontextmanager
async def _paced(run: Run, address: str) -> AsyncIterator[Ask]:
    """Asks in one stream of the edge's own client, whose answers may wait."""
    encoder = run.encoder
    quality, grid = encoder.bundle.quality(run.plan.quality), encoder.bundle.manifest.codec["grid"]
    opened = SessionOpen(
        fingerprint=bytes.fromhex(encoder.bundle.manifest.fingerprint),
        session=new_session(),
        camera=CAMERA,
        grid=grid,
        replies=run.way.replies,
        answers_wait_ms=run.way.wait_ms,
    )
    transport = grpc_transport(_link(address))
    with ThreadPoolExecutor(1) as encoding:
        stream = SessionStream(transport.open_session(), opened, encoder.frames, encoding, NEVER_S)

        async def ask(image: Image.Image, captured_at: datetime) -> tuple[str, bool, int]:
            front = await asyncio.get_running_loop().run_in_executor(encoding, encoder.read, image)
            extract = partial(encoder.latent, front.u, hold=run.plan.hold)
            reply = await stream.ask(extract, quality, captured_at)
            return reply.sent.frame.name, reply.same_as is not None, len(reply.sent.frame.payload)

        try:
            yield ask
        finally:
            await stream.close()
            await transport.close()


@asynccontextmanager
async def _unary(run: Run, address: str) -> AsyncIterator[Ask]:
    """Asks by a call for each image, of the edge's own client."""
    async with Client(_link(address), CAMERA) as client:

        async def ask(image: Image.Image, captured_at: datetime) -> tuple[str, bool, int]:
            encoded = run.encoder.encode(png_of(image), run.plan.quality)
            await client.analyze(new_request_id(), encoded.data, Wanted(), captured_at=captured_at)
            return encoded.packet.frame.name, False, encoded.bytes.b_v + encoded.bytes.b_z

        yield ask


def _link(address: str) -> CloudLink:
    return CloudLink(address=address, deadline_ms=DEADLINE_MS)
