"""What a box says about itself: GET /status as JSON, and its troubles for /readyz."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from pydantic import Field

from edge.box.box import Box
from edge.box.posted import Posted
from shared.frozen import Frozen

ALONE = "alone"


class SourceStatus(Frozen):
    """One source."""

    kind: str
    place: str = Field(description="its URL, without a password, or its file or folder")
    status: str = Field(description="starting, running, waiting (to start again), ended or failed")
    trouble: str = Field(
        description="what was wrong last, also why the cloud refuses its frames; empty if nothing is"
    )
    flaw: str = Field(description="why the last file of a folder that could not be read could not")
    starts: int = Field(description="of its process")
    captured: int = Field(description="images that it delivered")
    accepted: int = Field(description="frames that were spooled")
    sent: dict[str, int] = Field(
        description="frames acknowledged, by how they were sent: I, P or S (nothing new) in a session, or alone"
    )
    drops: dict[str, int] = Field(description="images that were not, by reason")
    last_image_s: float | None = Field(description="seconds since the last image; null if there was none")


class PostedStatus(Frozen):
    """Images that came by POST /analyze."""

    outcomes: dict[str, int] = Field(
        description="images: answered, gone (the client left), or the gRPC code of the refusal"
    )
    bytes: int = Field(description="what was sent of those that were answered")
    last_image_s: float | None = Field(description="seconds since the last answer; null if there was none")


class SpoolStatus(Frozen):
    """Frames that the cloud has not acknowledged."""

    depth: int
    bytes: int
    oldest_s: float = Field(description="age of the oldest frame")
    drops: dict[str, int] = Field(description="frames dropped since the start, by reason")
    damaged_files: tuple[str, ...] = Field(description="spool files that were set aside since the start")
    trouble: str


class LinkStatus(Frozen):
    """The way to the cloud."""

    trouble: str
    in_flight: int
    sent: int = Field(description="frames acknowledged since the start")
    sent_bytes: int = Field(description="what was sent of them, without what protocols add")
    limit_bytes_per_s: float | None = Field(
        description="what new frames may take now, by the budget and by what the link takes; null: no limit"
    )


class SinkStatus(Frozen):
    """One sink of answers."""

    name: str
    trouble: str
    waiting: int
    delivered: int
    dropped: int


class BoxStatus(Frozen):
    """A camera box."""

    bundle: str
    fingerprint: str
    sources: dict[str, SourceStatus]
    posted: PostedStatus
    spool: SpoolStatus
    link: LinkStatus
    sinks: tuple[SinkStatus, ...]
    config_trouble: str = Field(description="why the last edit of the file was not taken; empty if it was")
    update_trouble: str = Field(
        description="why the box does not run the bundle that its cloud wants; empty if it does, or does not ask"
    )


async def status_of(box: Box, others: Mapping[str, str] | None = None) -> BoxStatus:
    """others: further troubles, of "config" and "update".

    Reads the spool in a thread, because a disk may take long, and the rest in the event loop, where it changes.
    """
    others = others or {}
    state = await asyncio.to_thread(box.spool.state)
    link = box.link
    return BoxStatus(
        bundle=box.encoder.bundle.manifest.name,
        fingerprint=box.encoder.bundle.fingerprint.hex(),
        sources={name: _source(box, name) for name in box.sources},
        posted=_posted(box.posted),
        spool=SpoolStatus(
            depth=state.depth,
            bytes=state.bytes,
            oldest_s=round(state.age_s, 3),
            drops=state.drops,
            damaged_files=state.damaged_files,
            trouble=state.trouble,
        ),
        link=LinkStatus(
            trouble=link.trouble,
            in_flight=link.in_flight,
            sent=link.sent,
            sent_bytes=link.bytes,
            limit_bytes_per_s=None if box.rate.limit is None else round(box.rate.limit, 1),
        ),
        sinks=tuple(
            SinkStatus(
                name=one.name,
                trouble=one.trouble,
                waiting=one.waiting,
                delivered=one.delivered,
                dropped=one.dropped,
            )
            for one in box.sinks.all
        ),
        config_trouble=others.get("config", ""),
        update_trouble=others.get("update", ""),
    )


def _source(box: Box, name: str) -> SourceStatus:
    source = box.sources[name]
    state, counts = source.state, source.state.counts
    own = {reason: count for (camera, reason), count in box.drops.items() if camera == name}
    drops = {reason: count for reason, count in counts.items() if reason != "captured"}
    return SourceStatus(
        kind=source.settings.kind,
        place=source.settings.place,
        status=state.status,
        trouble=state.trouble or box.refused.get(name, ""),
        flaw=state.flaw,
        starts=state.starts,
        captured=counts["captured"],
        accepted=box.accepted[name],
        sent={kind or ALONE: count for (camera, kind), count in sorted(box.types.items()) if camera == name},
        drops=drops | own,
        last_image_s=_since(state.last_s),
    )


def _posted(posted: Posted | None) -> PostedStatus:
    if posted is None:
        return PostedStatus(outcomes={}, bytes=0, last_image_s=None)
    return PostedStatus(
        outcomes=dict(posted.outcomes), bytes=posted.bytes, last_image_s=_since(posted.last_s)
    )


def _since(at_s: float | None) -> float | None:
    return None if at_s is None else round(time.monotonic() - at_s, 3)


def troubles_of(box: Box, others: Mapping[str, str] | None = None) -> dict[str, str]:
    """What does not work now, by what it is; empty if all does. others: see `status_of`."""
    found = {
        f"source {name}": source.state.trouble or box.refused.get(name, "")
        for name, source in box.sources.items()
    }
    found |= {"link": box.link.trouble, "spool": box.spool.trouble, **(others or {})}
    found |= {f"answers to {sink.name}": sink.trouble for sink in box.sinks.all}
    return {what: text for what, text in found.items() if text}
