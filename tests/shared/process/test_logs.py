"""Lines for people and for machines: one a record, with its request, without secrets; a real edge and its libraries."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc.aio
import httpx
import pytest

from cloud.pipeline import Pipeline
from shared.process.config import LogSettings
from shared.process.logs import JsonLines, TextLines, about, masked, start_logging
from shared.wire import analyzer_pb2 as pb
from shared.wire.analyzer_pb2_grpc import AnalyzerStub
from support import processes
from support.service import GatedModel, png

SECRET = "s3cret-of-16-characters"


@pytest.fixture
def log() -> logging.Logger:
    made = logging.Logger("isthmus.test")
    made.setLevel(logging.DEBUG)
    return made


def written(log: logging.Logger, formatter: logging.Formatter) -> io.StringIO:
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(formatter)
    log.addHandler(handler)
    return out


async def test_a_line_names_the_request_of_its_task(log: logging.Logger) -> None:
    json_out, text_out = written(log, JsonLines()), written(log, TextLines())

    async def serve(request_id: str) -> None:
        about(request_id)
        await asyncio.sleep(0)
        log.info("working")

    log.info("starting")
    await asyncio.gather(*(asyncio.create_task(serve(name)) for name in ("a", "b", "c\n2026 INFO forged")))
    lines = [json.loads(line) for line in json_out.getvalue().splitlines()]
    assert [line.get("request_id") for line in lines] == [None, "a", "b", None]
    ends = [line.partition("isthmus.test: ")[2] for line in text_out.getvalue().splitlines()]
    assert ends == ["starting", "working [a]", "working [b]", "working"]


def test_an_exception_is_one_line_with_its_fields(log: logging.Logger) -> None:
    out = written(log, JsonLines())
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        log.exception("it broke: %s", "é\n\x00", extra={"fields": {"status": "500"}})
    [line] = out.getvalue().splitlines()
    told = json.loads(line)
    assert set(told) == {"time", "level", "logger", "message", "exception", "status"}
    assert told["level"] == "error"
    assert told["time"].endswith("+00:00")
    assert "ValueError: first\nsecond" in told["exception"]


@pytest.mark.parametrize(
    "text",
    [
        f"Authorization: Bearer {SECRET}",
        f"bearer  {SECRET}, then",
        f"?token={SECRET}&x=1",
        f'"password": "{SECRET}"',
        f"cannot open rtsp://admin:{SECRET}@10.0.0.7/stream: refused",
        f"rtsp://admin:p@{SECRET}@10.0.0.7/stream",
        f"http://10.0.0.7/jpg?user=a&pwd={SECRET}",
        f"http://10.0.0.7/jpg?pass={SECRET}&key=1",
        f"?api_key={SECRET}",
        f'"key": "{SECRET}"',
        f"X-Api-Key: {SECRET}",
    ],
)
@pytest.mark.parametrize("formatter", [JsonLines, TextLines])
def test_secrets_are_masked(log: logging.Logger, text: str, formatter: type[logging.Formatter]) -> None:
    out = written(log, formatter())
    try:
        raise ValueError(text)
    except ValueError:
        log.exception("%s", text)
    assert SECRET not in out.getvalue()
    assert "***" in out.getvalue()


def test_ordinary_words_are_not_masked() -> None:
    for text in (
        "tls.key: no such file",
        "pass: 3 of 4",
        "--tls-key=server.key",
        "monkey=1",
        "the key is missing",
    ):
        assert masked(text) == text
    assert masked("open rtsp://u:p@ss@cam/1") == "open rtsp://***@cam/1"


def test_clients_do_not_log_whole_urls(monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    names = ("httpx", "httpcore", "isthmus", "root")
    levels = {name: logging.getLogger(name).level for name in names}
    try:
        start_logging(LogSettings(level="debug"))
        assert not logging.getLogger("httpx").isEnabledFor(logging.INFO)
        assert not logging.getLogger("httpcore.http11").isEnabledFor(logging.INFO)
        assert logging.getLogger("httpx").isEnabledFor(logging.WARNING)
    finally:
        logging.captureWarnings(False)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


@pytest.fixture
def server_lines() -> Iterator[io.StringIO]:
    log = logging.getLogger("isthmus")
    out = written(log, JsonLines())
    yield out
    log.removeHandler(log.handlers[-1])


async def test_an_error_behind_grpc_names_its_request(
    stub: AnalyzerStub, pipeline: Pipeline, model: GatedModel, packed: list[bytes], server_lines: io.StringIO
) -> None:
    model.fail = ZeroDivisionError("inside")
    with pytest.raises(grpc.aio.AioRpcError):
        await stub.Analyze(pb.AnalyzeRequest(bitstream=packed[0], request_id="call.1"))

    async def requests() -> Any:
        yield pb.AnalyzeRequest(bitstream=packed[1], request_id="element.1")

    async for answer in stub.AnalyzeStream(requests()):
        assert answer.HasField("error")
    told = [json.loads(line) for line in server_lines.getvalue().splitlines()]
    assert [line["request_id"] for line in told] == ["call.1", "element.1"]
    assert all("ZeroDivisionError: inside" in line["exception"] for line in told)


def test_a_real_edge_writes_objects_only(tiny_bundle: Path) -> None:
    """Nothing listens at its cloud, so that gRPC has reason to write lines, too."""
    options = ("--bundle", tiny_bundle, "--port", "0", "--cloud", "127.0.0.1:9", "--deadline-ms", "300")
    with processes.server("edge", "serve", *options, "--log-format", "json", "--log-level", "debug") as edge:
        address = edge.event("listening")["http"]
        edge.event("ready")
        headers = {"X-Request-Id": "mine.7", "Authorization": f"Bearer {SECRET}"}
        answer = httpx.post(f"http://{address}/analyze", content=png(0), headers=headers, timeout=60)
        assert answer.status_code in (503, 504)
        assert httpx.get(f"http://{address}/?token={SECRET}", timeout=60).status_code == 404
        assert edge.stop() == 0
        assert edge.process.stderr is not None
        text = edge.process.stderr.read()
    told = [json.loads(line) for line in text.splitlines()]
    mine = [line for line in told if line.get("request_id") == "mine.7"]
    assert [line["message"] for line in mine] == [f"POST /analyze {answer.status_code}"]
    assert mine[0]["seconds"] > 0
    assert {line["message"] for line in told} >= {"ending"}
    assert SECRET not in text
