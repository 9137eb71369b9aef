"""Answers on their way out: each sink gets all of them in order, and one that is down delays no other."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

import edge.sinks.sinks
from edge.sinks.outputs import FileOutput, StandardOutput, Webhook
from edge.sinks.settings import AnswerSettings
from edge.sinks.sinks import Output, Sinks, outputs_of
from shared.errors import RequestError
from shared.types import Analysis, ByteCount, Times
from support.service import until


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge.sinks.sinks, "FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(edge.sinks.sinks, "WAIT_MAX_S", 0.01)


def analysis(number: int) -> Analysis:
    sizes = ByteCount(b_v=0, b_z=0, total=number, bits_per_pixel=0)
    return Analysis(
        request_id=f"r{number}",
        bundle="b",
        fingerprint="f",
        quality=0,
        results={},
        bytes=sizes,
        times=Times(),
    )


class Broken:
    """An output that fails so often before each answer, or for ever."""

    name = "broken"

    def __init__(self, failures: float, error: type[Exception] = OSError) -> None:
        self.failures, self.error, self.got, self.tries = failures, error, list[str](), 0

    async def deliver(self, answer: dict[str, Any]) -> None:
        self.tries += 1
        if self.tries <= self.failures:
            raise self.error("down")
        self.got.append(answer["request_id"])

    async def close(self) -> None:
        pass


async def put_all(outputs: list[Output], count: int, waiting_max: int = 1000) -> Sinks:
    sinks = Sinks(outputs, waiting_max)
    for number in range(count):
        sinks.put("door", analysis(number))
    return sinks


async def test_a_sink_that_is_down_delays_no_other() -> None:
    down, shaky, refusing = Broken(float("inf")), Broken(3), Broken(2, ValueError)
    sinks = await put_all([down, shaky, refusing], 20, 15)
    await until(lambda: len(shaky.got) == 15 and len(refusing.got) == 13)
    # The first five were pushed out before anything ran.
    assert shaky.got == [f"r{n}" for n in range(5, 20)]
    assert refusing.got == [f"r{n}" for n in range(7, 20)]
    first, second, third = sinks.all
    assert (first.waiting, first.delivered, first.dropped, first.trouble) == (15, 0, 5, "down")
    assert (second.waiting, second.delivered, second.dropped, second.trouble) == (0, 15, 5, "")
    assert (third.delivered, third.dropped) == (13, 7)
    down.failures = 0
    await until(lambda: len(down.got) == 15)
    await sinks.close()


async def test_a_file_is_rotated(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    sinks = await put_all([FileOutput(path, 1000, 3)], 40)
    await until(lambda: sinks.all[0].delivered == 40)
    await sinks.close()
    files = sorted(one.name for one in tmp_path.iterdir())
    assert files == ["answers.jsonl", "answers.jsonl.1", "answers.jsonl.2"]
    ids = [
        json.loads(line)["request_id"]
        for name in reversed(files)
        for line in (tmp_path / name).read_text().splitlines()
    ]
    assert ids == [f"r{n}" for n in range(40 - len(ids), 40)]
    assert all(one.stat().st_size <= 1000 for one in tmp_path.iterdir())
    only = tmp_path / "only"
    only.mkdir()
    output = FileOutput(only / "a", 10, 1)
    for number in range(3):
        await output.deliver({"n": number})
    assert (only / "a").read_text() == '{"n": 2}\n'
    with pytest.raises(OSError, match="No such file"):
        await FileOutput(tmp_path / "nope" / "a", 10, 1).deliver({})


async def test_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    sinks = await put_all([StandardOutput()], 2)
    await until(lambda: sinks.all[0].delivered == 2)
    await sinks.close()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(one["event"], one["camera"], one["request_id"]) for one in lines] == [
        ("answer", "door", "r0"),
        ("answer", "door", "r1"),
    ]


@contextmanager
def hook(statuses: list[int]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A web server that answers with these statuses, then 204; and the requests that it took."""
    taken: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status = statuses.pop(0) if statuses else 204
            if status == 204:
                taken.append(body | {"headers": dict(self.headers)})
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/hook", taken
        server.shutdown()


async def test_a_webhook() -> None:
    with hook([500, 429, 204, 400]) as (url, taken):
        settings = AnswerSettings(webhook=url, webhook_token="secret")
        sinks = await put_all(outputs_of(settings), 4)
        await until(lambda: sinks.all[0].delivered == 3)
        assert [one["request_id"] for one in taken] == ["r0", "r2", "r3"]  # 400 refuses the second for good
        assert sinks.all[0].dropped == 1
        assert taken[0]["headers"]["Authorization"] == "Bearer secret"
        assert taken[0]["headers"]["Idempotency-Key"] == "r0"
        await sinks.close()
    with pytest.raises(OSError, match=r"."):
        await Webhook(url, "", 5).deliver({})  # nobody there


async def test_none() -> None:
    assert outputs_of(AnswerSettings()) == []
    await (await put_all([], 3)).close()
    with pytest.raises(RequestError, match="http://"):
        AnswerSettings.of(webhook="ftp://a")
    assert "secret" not in repr(AnswerSettings(webhook_token="secret"))


async def test_what_waits_at_the_end_is_delivered_if_that_is_quick() -> None:
    quick, down = Broken(0), Broken(float("inf"))
    sinks = await put_all([quick], 5)
    await sinks.close()
    assert len(quick.got) == 5
    stuck = await put_all([down], 5)
    monkey = edge.sinks.sinks.DRAIN_S
    async with asyncio.timeout(monkey + 30):
        await stuck.close()
    assert down.got == []


async def test_nothing_of_a_webhooks_answer_is_read() -> None:
    class Endless(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            raise AssertionError("it was read")
            yield b""

    webhook = Webhook("http://a/hook", "", 5)
    await webhook.close()
    answer = httpx.Response(200, headers={"Content-Encoding": "gzip, gzip"}, stream=Endless())
    webhook._client = httpx.AsyncClient(transport=httpx.MockTransport(lambda _: answer))
    await webhook.deliver({"request_id": "r"})
    await webhook.close()
