"""Answers on their way out of the box. A sink that is slow or down delays nobody: each has its own queue, bounded.

    put(answer) -> a queue a sink, the oldest dropped -> deliver, tried again after waits that grow

What is delivered is one JSON object: camera, and the fields of the answer as `edge analyze --json` prints them.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Protocol

from edge.sinks.mqtt import Mqtt
from edge.sinks.outputs import FileOutput, StandardOutput, Webhook
from edge.sinks.settings import AnswerSettings, MqttSettings
from shared.types import Analysis

log = logging.getLogger("isthmus.edge.sinks")

FIRST_WAIT_S, WAIT_MAX_S = 0.2, 30.0
DRAIN_S = 2.0  # that answers which wait at the end may take


class Output(Protocol):
    """Takes one answer after the other."""

    name: str

    async def deliver(self, answer: dict[str, Any]) -> None:
        """Raises OSError where another attempt may succeed, and ValueError where none will."""

    async def close(self) -> None: ...


class Sink:
    """One output with its queue. delivered, dropped: answers so far. trouble: why the last attempt failed."""

    def __init__(self, output: Output, waiting_max: int) -> None:
        self.name, self.delivered, self.dropped, self.trouble = output.name, 0, 0, ""
        self._output, self._waiting_max = output, waiting_max
        self._waiting: deque[dict[str, Any]] = deque()
        self._changed = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def put(self, answer: dict[str, Any]) -> None:
        self._waiting.append(answer)
        if len(self._waiting) > self._waiting_max:
            self._waiting.popleft()
            self.dropped += 1
        self._changed.set()

    async def close(self) -> None:
        """Delivers what waits, if that is quick."""
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                while self._waiting:
                    await asyncio.sleep(0.01)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._output.close()

    async def _run(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            while self._waiting:
                await self._deliver(self._waiting[0])

    async def _deliver(self, answer: dict[str, Any]) -> None:
        """Delivers an answer, or gives up once it is refused, or pushed out of the queue."""
        wait_s = FIRST_WAIT_S
        while self._waiting and self._waiting[0] is answer:
            try:
                await self._output.deliver(answer)
            except OSError as error:
                self._report(error)
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, WAIT_MAX_S)
                continue
            except ValueError as error:
                self._report(error)
                self.dropped += 1
            else:
                self.delivered += 1
                self.trouble = ""
            if self._waiting and self._waiting[0] is answer:
                self._waiting.popleft()

    def _report(self, error: Exception) -> None:
        text = getattr(error, "strerror", None) or str(error) or type(error).__name__
        if text != self.trouble:
            log.warning("answers to %s: %s", self.name, text)
        self.trouble = text


class Sinks:
    """All sinks of a box. Must be made in the event loop that uses it; close it."""

    def __init__(self, outputs: Sequence[Output], waiting_max: int = 1000) -> None:
        self.all = [Sink(output, waiting_max) for output in outputs]

    def put(self, camera: str, analysis: Analysis) -> None:
        """Hands an answer to each sink; never waits."""
        if self.all:
            answer = {"camera": camera, **json.loads(analysis.model_dump_json(exclude_none=True))}
            for sink in self.all:
                sink.put(answer)

    async def close(self) -> None:
        await asyncio.gather(*(sink.close() for sink in self.all))


def outputs_of(settings: AnswerSettings, mqtt: MqttSettings | None = None) -> list[Output]:
    """The outputs that are chosen. Must be called in the event loop that uses them. Raises RequestError."""
    found: list[Output] = []
    if settings.stdout:
        found.append(StandardOutput())
    if settings.file is not None:
        found.append(FileOutput(settings.file, settings.file_bytes_max, settings.files_max))
    if settings.webhook:
        token = settings.webhook_token.get_secret_value() if settings.webhook_token else ""
        found.append(Webhook(settings.webhook, token, settings.webhook_timeout_ms / 1e3))
    if mqtt is not None and mqtt.host:
        found.append(Mqtt(mqtt))
    return found
