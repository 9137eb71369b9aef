"""One page about a box for people: its sources with their last picture and answer, its spool, link and sinks.

Made here, without a script and without anything from elsewhere; the browser asks for it again every five seconds, or
at /?still=1 never: where a page is loaded anew, a keyboard and a screen reader lose their place in it.
Everything that a camera, a cloud or a file of settings may say is escaped.
"""

from __future__ import annotations

import base64
import hashlib
import io
import time
from collections.abc import Callable, Mapping
from html import escape

from fastapi import FastAPI
from fastapi.responses import HTMLResponse, Response

from edge.box.box import Box
from edge.box.status import BoxStatus, SourceStatus, status_of
from shared.errors import UnknownCameraError
from shared.kinds import KINDS
from shared.types import Analysis

REFRESH_S = 5
PICTURE = (320, 240)  # pixels at most
RATE_S = 60.0  # over which bytes a second are counted
STYLE = """
body { font: 16px/1.4 system-ui, sans-serif; margin: 1rem auto; max-width: 72rem; padding: 0 1rem }
body { color: #1b1b1b; background: #fff }
h1 { font-size: 1.4rem }
h2 { font-size: 1.1rem; margin: 0 0 .5rem }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(20rem, 100%), 1fr)); gap: 1rem }
section { border: 1px solid #8a8a8a; border-radius: .4rem; padding: .8rem }
section:focus, a:focus { outline: 3px solid #0b57d0 }
img { display: block; max-width: 100%; min-height: 3rem; background: #eee }
dl { display: grid; grid-template-columns: auto 1fr; gap: 0 .8rem; margin: .6rem 0 }
dt { color: #555 }
dd { margin: 0; overflow-wrap: anywhere }
pre { white-space: pre-wrap; margin: .4rem 0; font-size: .85rem }
.trouble { color: #a50e0e; font-weight: 600 }
svg { width: 100%; height: 3rem; background: #f4f4f4 }
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
HEADERS = {
    "Content-Security-Policy": f"default-src 'none'; img-src 'self' data:; style-src 'sha256-{_STYLE_HASH}'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
}


def add_page(app: FastAPI, box: Callable[[], Box], others: Callable[[], Mapping[str, str]]) -> None:
    """GET /, and each source's last picture.

    box: raises NotReadyError while there is none. others: see `status_of`.
    """

    @app.get("/", include_in_schema=False)
    async def page(still: bool = False) -> HTMLResponse:
        one = box()
        return HTMLResponse(page_of(one, await status_of(one, others()), still), headers=HEADERS)

    @app.get(
        "/sources/{name}/picture",
        tags=["health"],
        summary="The last image of a source, small, as JPEG",
        responses={200: {"content": {"image/jpeg": {}}}},
        response_class=Response,
    )
    def picture(name: str) -> Response:
        found = box().last.get(name)
        if found is None:
            raise UnknownCameraError(name)
        small = found[0].copy()
        small.thumbnail(PICTURE)
        out = io.BytesIO()
        small.save(out, "JPEG", quality=70)
        return Response(out.getvalue(), media_type="image/jpeg")


def page_of(box: Box, status: BoxStatus, still: bool = False) -> str:
    """The page as HTML. still: it is not loaded anew by itself."""
    cards = "".join(
        _card(name, one, box.last.get(name, (None, None))[1], box) for name, one in status.sources.items()
    )
    refresh = "" if still else f'<meta http-equiv="refresh" content="{REFRESH_S}">'
    other = f'<a href="./">Renew every {REFRESH_S} s</a>' if still else '<a href="?still=1">Stand still</a>'
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">{refresh}<link rel="icon" href="data:,">'
        f'<meta name="viewport" content="width=device-width"><title>Isthmus box</title><style>{STYLE}</style></head>'
        f"<body><h1>Isthmus box: bundle {escape(status.bundle)} ({escape(status.fingerprint)})</h1><p>{other}</p>"
        f"<main>{cards or '<p>There are no sources.</p>'}{_posted(box, status)}{_link(status)}{_spool(status)}</main>"
        "</body></html>"
    )


def _card(name: str, one: SourceStatus, answer: Analysis | None, box: Box) -> str:
    qualities, sizes = list(box.qualities.get(name, ())), list(box.sizes.get(name, ()))
    now_s = time.monotonic()
    per_s = sum(size for at_s, size in sizes if at_s > now_s - RATE_S) / RATE_S
    facts = {
        "state": one.status,
        "trouble": one.trouble or one.flaw,
        "source": f"{one.kind} {one.place}",
        "last image": _age(one.last_image_s),
        "accepted": str(one.accepted),
        "not sent": ", ".join(f"{count} {reason}" for reason, count in one.drops.items()),
        "bytes a second": f"{per_s:.1f}",
        "sent": ", ".join(f"{count} {kind}" for kind, count in one.sent.items()),
        "quality": str(qualities[-1]) if qualities else "",
    }
    shown = (
        f'<img src="sources/{escape(name)}/picture" alt="Last image of {escape(name)}">' if qualities else ""
    )
    return _section(name, shown + _list(facts) + _chart(qualities) + _answer(answer))


def _age(since_s: float | None) -> str:
    return "none yet" if since_s is None else f"{since_s:.0f} s ago"


def _posted(box: Box, status: BoxStatus) -> str:
    """Images of programs, once there were some."""
    posted = status.posted
    if box.posted is None or not posted.outcomes:
        return ""
    facts = {
        "last answer": _age(posted.last_image_s),
        "images": ", ".join(f"{count} {outcome}" for outcome, count in posted.outcomes.items()),
        "sent": f"{posted.bytes} bytes",
    }
    return _section("POST /analyze", _list(facts) + _answer(box.posted.answer))


def _answer(answer: Analysis | None) -> str:
    if answer is None:
        return ""
    results = answer.results.items()
    lines = [f"{task}: {line}" for task, result in results for line in KINDS[result.kind].lines(result)]
    return f"<pre>{escape(chr(10).join(lines))}</pre>"


def _link(status: BoxStatus) -> str:
    link = status.link
    limit = link.limit_bytes_per_s
    facts = {
        "trouble": link.trouble,
        "sent": f"{link.sent} frames, {link.sent_bytes} bytes",
        "in flight": str(link.in_flight),
        "limit": "none" if limit is None else f"{limit * 8 / 1000:.1f} kbit/s",
        "settings": status.config_trouble,
        "bundle": status.update_trouble,
    }
    for sink in status.sinks:
        text = f"{sink.delivered} delivered, {sink.waiting} waiting, {sink.dropped} dropped"
        facts[f"answers to {sink.name}"] = f"{text}; {sink.trouble}" if sink.trouble else text
    return _section("Link", _list(facts))


def _spool(status: BoxStatus) -> str:
    spool = status.spool
    facts = {
        "trouble": spool.trouble,
        "waiting": f"{spool.depth} frames, {spool.bytes} bytes",
        "oldest": f"{spool.oldest_s:.0f} s",
        "dropped": ", ".join(f"{count} {reason}" for reason, count in spool.drops.items()),
        "set aside": ", ".join(spool.damaged_files),
    }
    return _section("Spool", _list(facts))


def _section(title: str, inside: str) -> str:
    return f'<section tabindex="0" aria-label="{escape(title)}"><h2>{escape(title)}</h2>{inside}</section>'


def _list(facts: dict[str, str]) -> str:
    rows = "".join(
        f"<dt>{escape(name)}</dt><dd{' class=trouble' * (name == 'trouble')}>{escape(text)}</dd>"
        for name, text in facts.items()
        if text
    )
    return f"<dl>{rows}</dl>"


def _chart(qualities: list[int]) -> str:
    """Quality of the last frames, 0 to 100, from left to right."""
    if len(qualities) < 2:
        return ""
    step = 100 / (len(qualities) - 1)
    points = " ".join(f"{number * step:.1f},{100 - quality}" for number, quality in enumerate(qualities))
    return (
        f'<svg viewBox="0 -2 100 104" preserveAspectRatio="none" role="img" aria-label="Quality of the last '
        f'{len(qualities)} frames, now {qualities[-1]}"><polyline points="{points}" fill="none" stroke="#0b57d0" '
        'stroke-width="2" vector-effect="non-scaling-stroke"/></svg>'
    )
