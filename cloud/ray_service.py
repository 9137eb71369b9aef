"""What `serve run` and `serve deploy` start (deploy/ray/serve.yaml): gateways before decode and tails. Knows no Ray.

serve run cloud.ray_service:app config=deploy/cloud.toml
"""

from __future__ import annotations

import asyncio
import os
from functools import partial
from pathlib import Path

from pydantic import SecretStr

from cloud.engine.engine import MakeEngine
from cloud.server import serve
from cloud.settings import CloudSettings
from shared.errors import RequestError
from shared.process.config import load_settings
from shared.process.logs import start_logging


def app(given: dict[str, str]) -> object:
    """Ray's Application. given: config, the TOML file that `isthmus cloud serve --config` reads; none: its defaults.

    ISTHMUS_... variables hold as well, those of the process that builds the application; where it has no ISTHMUS_STATE,
    that of each gateway's own process, so that this secret need not travel. Raises RequestError.
    """
    from cloud.engine.ray_engine import gateway_application, tails_loader

    if unknown := given.keys() - {"config"}:
        raise RequestError(f"there is no argument {min(unknown)}; give config=FILE, or nothing")
    config = Path(given["config"]) if "config" in given else None
    settings = load_settings(CloudSettings, config, {}).settings
    ours = settings.model_copy(update={"engine": settings.engine.model_copy(update={"kind": "ray"})})
    return gateway_application(
        partial(_run, ours), ours.ray, ours.pipeline, tails_loader(ours.engine), ours.drain_ms
    )


async def _run(settings: CloudSettings, engine: MakeEngine, stop: asyncio.Event) -> None:
    """A gateway, until `stop` is set."""
    start_logging(settings.log)
    if settings.state.url is None and (url := os.environ.get("ISTHMUS_STATE")):
        state = settings.state.model_copy(update={"url": SecretStr(url)})
        settings = settings.model_copy(update={"state": state})
    await serve(settings, engine, stop)
