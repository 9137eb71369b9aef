"""`isthmus bench wire`: what a frame costs on the link, both directions, container, protobuf, gRPC and HTTP/2 included.

    rendered rooms -> Encoder -> edge's client -> counting proxy -> a cloud's process            plain
                                 edge's client -> TLS -> counting proxy -> TLS -> the same       TLS

One frame at a time: the next is sent once the last is answered and nothing passes any more, so that each byte belongs
to a frame. The first frames are left out: they open the session, and have nothing to refer to.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from PIL import Image
from rich.progress import Progress

from bench.report.report import About
from bench.wire.counting import CountingProxy, counting_proxy
from bench.wire.results import PERSON, STILL, WAYS, Course, FrameCost, LinkKind, Way, Wire
from bench.wire.scenes import FPS, png_of, scenes
from bench.wire.tls import tls_link, tls_missing
from bench.wire.wire_report import write_wire
from edge.client import Client
from edge.session import CameraSession
from edge.settings import CloudLink, SessionSettings
from shared.bundle import Bundle
from shared.encoder import Encoder
from shared.process.child_process import ISTHMUS, server
from shared.types import Wanted, new_request_id

QUIET_S = 0.01
NEVER_S, ALWAYS_S = 1e9, 1e-9  # between frames I
DEADLINE_MS = 120_000
CAMERA = "door"
STARTED_AT = datetime(2026, 1, 1, 12, tzinfo=UTC)


@dataclass(frozen=True)
class WirePlan:
    """What is measured. skipped: frames before counting begins. counted: after them, of each course."""

    bundle: Path
    out: Path
    skipped: int
    counted: int
    quality: int | None = None
    hold: float = SessionSettings().hold
    tls: bool = True


# One image and when it was captured -> how it was sent, whether the answer was "as before", and b_v + b_z.
Ask = Callable[[Image.Image, datetime], Awaitable[tuple[str, bool, int]]]


def bench_wire(plan: WirePlan, command: str) -> Wire:
    """Measures, and writes the report to `plan.out`. Raises IsthmusError."""
    encoder = Encoder(Bundle.open(plan.bundle))
    images = scenes(encoder.bundle, plan.skipped + plan.counted)
    missing = tls_missing() if plan.tls else "left out"
    options = ("--bundle", str(plan.bundle.resolve()), "--grpc-port", "0", "--http-port", "0")
    with server("cloud", [*ISTHMUS, "cloud", "serve", *options]) as cloud:
        address = cloud.wait_for("listening")["grpc"]
        cloud.wait_for("ready")
        courses = asyncio.run(_all_courses(plan, encoder, images, address, not missing))
    wire = Wire(
        about=About.now(command, plan.counted),
        bundle=encoder.bundle.manifest.name,
        quality=encoder.bundle.quality(plan.quality),
        hold=plan.hold,
        sticky=encoder.sticky,
        predicts=encoder.frames.predicts,
        skipped=plan.skipped,
        courses=tuple(courses),
        missing=missing,
    )
    write_wire(plan.out, wire)
    return wire


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
                opened = _session if way.session else _unary
                ask = await stack.enter_async_context(opened(plan, encoder, way, near))
                courses.append(await run_course(plan.skipped, images[scene], way, scene, link, proxy, ask))
    return courses


async def run_course(
    skipped: int,
    images: Sequence[Image.Image],
    way: Way,
    scene: str,
    link: LinkKind,
    proxy: CountingProxy,
    ask: Ask,
) -> Course:
    """Sends the images of a scene one by one. Of the HTTP/2 frames, only those of counted images count."""
    frames: list[FrameCost] = []
    opening, before = (0, 0), (Counter[str](), Counter[str]())
    for number, image in enumerate(images):
        up, down = proxy.up.size, proxy.down.size
        if number == skipped:
            before = proxy.up.frames.copy(), proxy.down.frames.copy()
        frame, as_before, payload = await ask(image, STARTED_AT + timedelta(seconds=number / FPS))
        await proxy.quiet(QUIET_S)
        up, down = proxy.up.size - up, proxy.down.size - down
        if number == 0:
            opening = up, down
        if number >= skipped:
            frames.append(FrameCost(frame=frame, as_before=as_before, payload=payload, up=up, down=down))
    spent = [way.frames - old for way, old in zip((proxy.up, proxy.down), before, strict=True)]
    return Course(
        way=way,
        scene=scene,
        link=link,
        opening_up=opening[0],
        opening_down=opening[1],
        frames=tuple(frames),
        http2_up={name: size / len(frames) for name, size in sorted(spent[0].items())},
        http2_down={name: size / len(frames) for name, size in sorted(spent[1].items())},
    )


@asynccontextmanager
async def _session(plan: WirePlan, encoder: Encoder, way: Way, address: str) -> AsyncIterator[Ask]:
    """Asks in a session of the edge's own client."""
    settings = SessionSettings(
        hold=plan.hold, intra_every_s=ALWAYS_S if way.intra else NEVER_S, replies=way.replies
    )
    async with CameraSession(encoder, _link(address), settings, camera=CAMERA) as session:

        async def ask(image: Image.Image, captured_at: datetime) -> tuple[str, bool, int]:
            answer = await session.analyze(image, plan.quality, captured_at)
            size = answer.analysis.bytes
            return answer.frame, answer.same_as is not None, size.b_v + size.b_z

        yield ask


@asynccontextmanager
async def _unary(plan: WirePlan, encoder: Encoder, _: Way, address: str) -> AsyncIterator[Ask]:
    """Asks by a call for each image, of the edge's own client."""
    async with Client(_link(address), CAMERA) as client:

        async def ask(image: Image.Image, captured_at: datetime) -> tuple[str, bool, int]:
            encoded = encoder.encode(png_of(image), plan.quality)
            await client.analyze(new_request_id(), encoded.data, Wanted(), captured_at=captured_at)
            return encoded.packet.frame.name, False, encoded.bytes.b_v + encoded.bytes.b_z

        yield ask


def _link(address: str) -> CloudLink:
    return CloudLink(address=address, deadline_ms=DEADLINE_MS)
