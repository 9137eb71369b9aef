"""Answers over MQTT 5: a retained state for each camera, whether the box is there, and Home Assistant's discovery.

    TOPIC/BOX/status      "online", retained; "offline" as the box's last will, and when it ends
    TOPIC/BOX/CAMERA      the camera's last answer as JSON, retained
    DISCOVERY/sensor/BOX_CAMERA_TASK/config     what Home Assistant needs to show a task's answer, retained; if wanted

A connection is held all the time, and made anew when it breaks. Brokers may forget what they retained when they are
restarted, so all of it is published again then.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from contextlib import suppress
from typing import Any

from edge.sinks.settings import STATUS, MqttSettings
from shared.errors import RequestError

CONNECT_S = 10.0
CAMERAS_MAX = 1000
FIRST_WAIT_S, WAIT_MAX_S = 0.5, 30.0
ONLINE, OFFLINE = b"online", b"offline"


class Mqtt:
    """One broker. Must be made in the event loop that uses it; close it.

    Raises RequestError where aiomqtt is not installed, or a file of the settings cannot be read.
    """

    name = "mqtt"

    def __init__(self, settings: MqttSettings) -> None:
        self._settings = settings
        self._base = f"{settings.topic}/{settings.box}"
        self._status = f"{self._base}/{STATUS}"
        self._make = _maker(settings, self._status)
        self._client: Any = None  # while there is a connection
        self._connected, self._why = asyncio.Event(), "not connected yet"
        self._states: dict[str, dict[str, Any]] = {}  # the last answer by camera
        self._known: set[str] = set()  # topics of discovery that this connection has published
        self._task = asyncio.create_task(self._hold())

    async def deliver(self, answer: dict[str, Any]) -> None:
        camera = answer["camera"]
        # Programs that post images name their camera themselves.
        if camera == STATUS or (camera not in self._states and len(self._states) >= CAMERAS_MAX):
            raise ValueError(f"camera {camera} gets no topic: it is called {STATUS}, or there are too many")
        self._states[camera] = answer
        try:
            async with asyncio.timeout(CONNECT_S):
                await self._connected.wait()
        except TimeoutError:
            raise OSError(self._why) from None
        await self._publish(answer)

    async def close(self) -> None:
        if self._client is not None:
            with suppress(OSError):
                await self._send(self._status, OFFLINE)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _hold(self) -> None:
        """Connects, says what there is, and waits for the connection's end; for ever."""
        from aiomqtt import MqttError

        wait_s = FIRST_WAIT_S
        while True:
            try:
                async with asyncio.timeout(None), self._make() as client:
                    self._client, wait_s = client, FIRST_WAIT_S
                    self._known.clear()
                    await self._send(self._status, ONLINE)
                    for answer in list(self._states.values()):
                        await self._publish(answer)
                    self._connected.set()
                    async for _ in client.messages:  # none is subscribed to: this ends with the connection
                        pass
            except (MqttError, OSError, ValueError) as error:
                self._why = str(error) or type(error).__name__
            finally:
                self._client = None
                self._connected.clear()
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, WAIT_MAX_S)

    async def _publish(self, answer: dict[str, Any]) -> None:
        """Raises OSError."""
        camera = answer["camera"]
        for task, result in answer.get("results", {}).items():
            found = self._discovery(camera, task, result)
            if found is not None and found[0] not in self._known:
                await self._send(found[0], json.dumps(found[1]).encode())
                self._known.add(found[0])
        await self._send(f"{self._base}/{camera}", json.dumps(answer).encode())

    async def _send(self, topic: str, payload: bytes) -> None:
        """Raises OSError."""
        from aiomqtt import MqttError

        client = self._client
        if client is None:
            raise OSError(self._why)
        try:
            await client.publish(topic, payload, qos=1, retain=True, timeout=CONNECT_S)
        except MqttError as error:
            raise OSError(str(error) or type(error).__name__) from None

    def _discovery(self, camera: str, task: str, result: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
        """Topic and content for Home Assistant; None for a result that is no one value."""
        value = _value(result)
        if value is None or not self._settings.discovery:
            return None
        path, unit = value
        box = self._settings.box
        name = f"{box}_{camera}_{task}".replace(".", "_")
        config = {
            "name": task,
            "unique_id": f"isthmus_{name}",
            "state_topic": f"{self._base}/{camera}",
            "value_template": f"{{{{ value_json.results['{task}'].{path} }}}}",
            "availability_topic": self._status,
            "device": {
                "identifiers": [f"isthmus_{box}_{camera}"],
                "name": f"{camera} ({box})",
                "manufacturer": "Isthmus",
            },
        }
        if unit:
            config["unit_of_measurement"] = unit
        return f"{self._settings.discovery}/sensor/{name}/config", config


def _value(result: dict[str, Any]) -> tuple[str, str] | None:
    """Where the one value of a result stands in its JSON, and its unit."""
    if result.get("top"):
        return "top[0].label", ""
    if result.get("areas"):
        return "areas[0].label", ""
    return ("median_m", "m") if "median_m" in result else None


def _maker(settings: MqttSettings, status: str) -> Any:
    """Makes a client of aiomqtt, which connects when it is entered. Raises RequestError."""
    try:
        from aiomqtt import Client, ProtocolVersion, Will
    except ModuleNotFoundError:
        raise RequestError(
            "mqtt.host is set, and aiomqtt is not installed: pip install aiomqtt, or this package with [mqtt]"
        ) from None
    try:
        context = ssl.create_default_context(cafile=settings.ca) if settings.tls or settings.ca else None
    except (OSError, ssl.SSLError) as error:
        raise RequestError(f"mqtt.ca: cannot read {settings.ca}: {error}") from None
    password = settings.read_password()

    def make() -> Client:
        return Client(
            settings.host,
            settings.port,
            username=settings.username or None,
            password=password,
            identifier=f"isthmus-{settings.box}",
            protocol=ProtocolVersion.V5,
            will=Will(status, OFFLINE, qos=1, retain=True),
            tls_context=context,
            timeout=CONNECT_S,
            keepalive=30,
        )

    return make
