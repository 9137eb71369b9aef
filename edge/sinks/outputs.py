"""Standard output, a file that is rotated, a webhook. Each delivers one answer; none knows a queue or tries again."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx


class StandardOutput:
    """JSON lines with the event "answer", among the process's other events."""

    name = "stdout"

    async def deliver(self, answer: dict[str, Any]) -> None:
        await asyncio.to_thread(_print, json.dumps({"event": "answer", **answer}))

    async def close(self) -> None:
        pass


def _print(line: str) -> None:
    # One write: other events of the process come from other threads.
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


class FileOutput:
    """JSON lines at `path`; beyond `bytes_max` it becomes path.1, that path.2, and so on, `files_max` in all."""

    def __init__(self, path: Path, bytes_max: int, files_max: int) -> None:
        self.name = str(path)
        self._path, self._bytes_max, self._files_max = path, bytes_max, files_max

    async def deliver(self, answer: dict[str, Any]) -> None:
        await asyncio.to_thread(self._append, json.dumps(answer).encode() + b"\n")

    async def close(self) -> None:
        pass

    def _append(self, line: bytes) -> None:
        """Raises OSError. What was written of a line that did not fit the disk is taken back."""
        with self._path.open("ab") as file:
            size = file.tell()
            if not size or size + len(line) <= self._bytes_max:
                try:
                    file.write(line)
                    file.flush()
                except OSError:
                    with suppress(OSError):
                        os.truncate(self._path, size)
                    raise
                return
        for number in range(self._files_max - 1, 0, -1):
            older = self._path if number == 1 else self._numbered(number - 1)
            with suppress(FileNotFoundError):
                os.replace(older, self._numbered(number))
        if self._files_max == 1:
            self._path.unlink()
        self._append(line)

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")


class Webhook:
    """POSTs each answer as JSON. Any 2xx takes it; 4xx, but for 408, 425 and 429, refuses it for good."""

    name = "webhook"

    def __init__(self, url: str, token: str, timeout_s: float) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._url = url
        self._client = httpx.AsyncClient(timeout=timeout_s, headers=headers)

    async def deliver(self, answer: dict[str, Any]) -> None:
        try:
            # Delivered again after a lost reply, it has the same key.
            key = {"Idempotency-Key": str(answer.get("request_id", ""))}
            async with self._client.stream("POST", self._url, json=answer, headers=key) as reply:
                pass  # its body is of no use, and may have any size
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise OSError(str(error) or type(error).__name__) from None
        if reply.is_success:
            return
        text = f"the webhook answers {reply.status_code}"
        if reply.is_client_error and reply.status_code not in (408, 425, 429):
            raise ValueError(text)
        raise OSError(text)

    async def close(self) -> None:
        await self._client.aclose()
