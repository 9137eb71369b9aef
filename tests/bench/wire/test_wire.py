"""`isthmus bench wire`: what the proxy counts, and a brief run on a tiny bundle that predicts frames."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch")

from bench.wire.counting import PREFACE, Http2Tally, counting_proxy, listening
from bench.wire.tls import tls_link, tls_missing
from support.context_bundle import with_context
from support.processes import run_here


def http2_frame(kind: int, size: int) -> bytes:
    return size.to_bytes(3, "big") + bytes([kind, 0, 0, 0, 0, 1]) + bytes(size)


@given(
    kinds=st.lists(st.tuples(st.sampled_from([0, 1, 6, 8, 99]), st.integers(0, 40)), max_size=8),
    cut=st.integers(1, 30),
)
def test_http2_frames_are_counted_however_the_bytes_are_cut(kinds: list[tuple[int, int]], cut: int) -> None:
    names = {0: "DATA", 1: "HEADERS", 6: "PING", 8: "WINDOW_UPDATE", 99: "other"}
    stream = PREFACE + b"".join(http2_frame(kind, size) for kind, size in kinds)
    expected = Counter({"other": len(PREFACE)})
    for kind, size in kinds:
        expected[names[kind]] += 9 + size
    counts: Counter[str] = Counter()
    tally = Http2Tally(counts, preface=True)
    for at in range(0, len(stream), cut):
        tally.add(stream[at : at + cut])
    assert counts == expected


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers each byte with two."""
    while data := await reader.read(100):
        writer.write(data * 2)


async def asked(address: str, data: bytes) -> None:
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(data)
    assert await reader.readexactly(2 * len(data)) == data * 2
    writer.close()


async def test_a_proxy_counts_both_directions() -> None:
    async with listening(echo) as address, counting_proxy(address) as proxy:
        await asked(proxy.address, bytes(50))
        await proxy.quiet(0.001)
        assert (proxy.up.size, proxy.down.size) == (50, 100)


@pytest.mark.skipif(bool(tls_missing()), reason=tls_missing())
async def test_over_tls_the_records_count() -> None:
    async with listening(echo) as address, tls_link(address) as (near, proxy):
        host, _, port = near.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        for _ in range(2):  # the first brings the handshake
            up, down = proxy.up.size, proxy.down.size
            writer.write(bytes(50))
            assert await reader.readexactly(100) == bytes(100)
            await proxy.quiet(0.001)
        writer.close()
        # A record of TLS 1.3: 5 bytes before, 1 of its type and 16 of its tag behind.
        assert (proxy.up.size - up, proxy.down.size - down) == (50 + 22, 100 + 22)
        assert not proxy.up.frames


def test_quick_on_a_bundle_that_predicts(tmp_path: Path, tiny_bundle: Path) -> None:
    bundle = with_context(tiny_bundle, tmp_path / "bundle")
    done = run_here("bench", "wire", bundle.path, "--quick", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    courses = {(one["way"]["name"], one["scene"]): one for one in results["courses"]}
    unary = courses["unary", "still, fresh noise"]["frames"]
    same = courses["session, changes", "the same picture"]["frames"]
    alone = courses["session, I alone", "a person walks"]["frames"]
    assert {one["frame"] for one in unary} == {one["frame"] for one in alone} == {"I"}
    assert {(one["frame"], one["payload"], one["as_before"]) for one in same} == {("S", 0, True)}
    assert len(unary) == len(same) == 10
    waiting = courses["session, answers wait 1 s", "the same picture"]["frames"]
    assert {(one["frame"], one["payload"], one["as_before"]) for one in waiting} == {("S", 0, True)}
    assert sum(one["up"] + one["down"] for one in waiting) < 0.7 * sum(
        one["up"] + one["down"] for one in same
    )
    for one in unary + same + alone:
        assert one["up"] > one["payload"] + 14  # at least the headers of HTTP/2 and gRPC
    assert max(one["up"] + one["down"] for one in same) < min(one["up"] + one["down"] for one in unary) / 3
    for course in results["courses"]:
        for way, key in (("up", "http2_up"), ("down", "http2_down")):
            mean = sum(one[way] for one in course["frames"]) / len(course["frames"])
            assert sum(course[key].values()) == pytest.approx(mean)
    assert [target["met"] for target in results["targets"]].count(None) <= 3
    text = (tmp_path / "run" / "results.md").read_text()
    assert "### HTTP/2 frames" in text
    assert "No TLS: left out." in text
