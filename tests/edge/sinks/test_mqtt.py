"""MQTT with a real broker, which is killed and restarted: states, discovery and the last will are right afterwards."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import edge.sinks.mqtt
from edge.sinks.mqtt import Mqtt
from edge.sinks.settings import MqttSettings
from shared.errors import RequestError

aiomqtt = pytest.importorskip("aiomqtt", reason="comes with [mqtt]")
BROKER = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
pytestmark = pytest.mark.skipif(BROKER is None, reason="needs mosquitto")

ANSWER = {
    "camera": "door",
    "request_id": "r1",
    "results": {"rooms": {"kind": "k", "top": [{"label": "kitchen"}]}, "other": {"kind": "k", "mean": 3}},
}


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge.sinks.mqtt, "FIRST_WAIT_S", 0.05)
    monkeypatch.setattr(edge.sinks.mqtt, "WAIT_MAX_S", 0.2)


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        number: int = listening.getsockname()[1]
        return number


@contextmanager
def broker(path: Path, port: int) -> Iterator[None]:
    """It forgets what it retained when it ends."""
    config = path / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\n")
    assert BROKER is not None
    with subprocess.Popen([BROKER, "-c", str(config)], stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.kill()


async def retained(port: int, count: int) -> dict[str, Any]:
    """What a client that comes now is given, once there are so many topics; also that connects late."""
    found: dict[str, Any] = {}
    async with asyncio.timeout(60):
        while True:
            try:
                async with aiomqtt.Client("127.0.0.1", port) as client:
                    await client.subscribe("#")
                    async for message in client.messages:
                        found[str(message.topic)] = bytes(message.payload).decode()
                        if len(found) >= count:
                            return found
            except aiomqtt.MqttError:
                await asyncio.sleep(0.05)


async def test_a_broker_that_is_killed_and_restarted(tmp_path: Path, port: int) -> None:
    mqtt = Mqtt(MqttSettings(host="127.0.0.1", port=port, box="box1", discovery="ha"))
    delivering = asyncio.create_task(mqtt.deliver(ANSWER))  # the broker is not there yet
    with broker(tmp_path, port):
        await delivering
        first = await retained(port, 3)
        assert first["isthmus/box1/status"] == "online"
        assert json.loads(first["isthmus/box1/door"]) == ANSWER
        (topic,) = [one for one in first if one.startswith("ha/")]
        assert topic == "ha/sensor/box1_door_rooms/config"
        config = json.loads(first[topic])
        assert config["state_topic"] == "isthmus/box1/door"
        assert config["availability_topic"] == "isthmus/box1/status"
        assert config["value_template"] == "{{ value_json.results['rooms'].top[0].label }}"
    with broker(tmp_path, port):  # nothing is delivered meanwhile, and all is there again
        assert await retained(port, 3) == first
        await mqtt.deliver(ANSWER | {"request_id": "r2"})
        assert json.loads((await retained(port, 3))["isthmus/box1/door"])["request_id"] == "r2"
        await mqtt.close()
        assert (await retained(port, 3))["isthmus/box1/status"] == "offline"


async def test_the_last_will(tmp_path: Path, port: int) -> None:
    with broker(tmp_path, port):
        mqtt = Mqtt(MqttSettings(host="127.0.0.1", port=port, box="box1"))
        await mqtt.deliver(ANSWER)
        assert (await retained(port, 2))["isthmus/box1/status"] == "online"
        mqtt._client._client.socket().shutdown(socket.SHUT_RDWR)  # as when the box is cut off
        mqtt._task.cancel()
        async with asyncio.timeout(60):
            while (await retained(port, 2))["isthmus/box1/status"] != "offline":
                await asyncio.sleep(0.05)


def test_settings() -> None:
    for wrong in ({"topic": "a/#"}, {"box": "a b"}, {"discovery": "+"}):
        with pytest.raises(RequestError, match="characters of"):
            MqttSettings.of(**wrong)
    with pytest.raises(RequestError, match="password_file"):
        MqttSettings(password_file=Path("/nope")).read_password()
    assert "secret" not in repr(MqttSettings(password="secret"))
