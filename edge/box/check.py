"""`isthmus edge check`: tries everything that a box needs, and says of each whether it works; if not, where it is set.

Changes nothing, but that the folder of downloaded bundles is made.

bundle, spool's folder, updates, cloud (and whether it has the bundle), then every source until its first image
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from edge.box.settings import BoxConfig, BoxSettings, check_sources
from edge.capture.messages import Message
from edge.capture.settings import SourceSettings
from edge.capture.source import Source
from edge.client import Client
from edge.update import first_bundle, source_of
from shared.bundle import Bundle
from shared.errors import IsthmusError, RemoteRejectedError

SOURCE_S = 30.0  # that a source may take until it has said something


@dataclass(frozen=True)
class Finding:
    """what: was tried. good: whether it works. text: what was found, or what is wrong."""

    what: str
    good: bool
    text: str


async def check(config: BoxConfig) -> AsyncIterator[Finding]:
    """Each finding as it is made. Raises nothing for what does not work."""
    settings = config.settings
    bundle: Bundle | None = None
    try:
        bundle = await asyncio.to_thread(_bundle, settings)
        yield Finding("bundle", True, f"{bundle.manifest.name}, fingerprint {bundle.fingerprint.hex()}")
        check_sources(config, bundle)
    except IsthmusError as error:
        # What is wrong with a source for this bundle says where by itself.
        where = f" ({config.place('bundle')})" if bundle is None else ""
        yield Finding("bundle", False, f"{error}{where}")
    yield await asyncio.to_thread(_spool, config)
    if settings.update.url is not None:
        yield await asyncio.to_thread(_update, config)
    yield await _cloud(config, bundle)
    tries = [asyncio.create_task(_source(config, *one)) for one in config.sources.items()]
    if not tries:
        yield Finding("sources", False, "there are none; add a table [sources.NAME]")
    for each in asyncio.as_completed(tries):
        yield await each


def _bundle(settings: BoxSettings) -> Bundle:
    """Raises BundleError, or RequestError for a key that cannot be read."""
    bundle = first_bundle(settings)
    if settings.update.require_signature is not None:
        from shared.signing import verify

        verify(bundle, settings.update.require_signature)
    return bundle


def _spool(config: BoxConfig) -> Finding:
    """Whether its folder can be written, and its disk has room."""
    settings = config.settings.spool
    folder = settings.folder
    try:
        there = folder if folder.exists() else folder.absolute().parent
        with tempfile.TemporaryFile(dir=there) as file:
            started = time.perf_counter()
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
            sync_ms = 1e3 * (time.perf_counter() - started)
        free = shutil.disk_usage(there).free
    except OSError as error:
        where = config.place("spool.folder")
        return Finding("spool", False, f"{folder} cannot be written: {error.strerror} ({where})")
    text = f"{folder}: {free >> 20} MiB free, a sync takes {sync_ms:.1f} ms"
    if free < settings.bytes_max * 5 // 4:
        where = config.place("spool.bytes_max")
        return Finding("spool", False, f"{text}; too little for {settings.bytes_max} bytes ({where})")
    return Finding("spool", True, text)


def _update(config: BoxConfig) -> Finding:
    """Whether another bundle could be asked for, downloaded and kept."""
    import httpx

    settings, update = config.settings, config.settings.update
    where = config.place("update.url")
    assert update.url is not None
    assert update.folder is not None  # as the settings say
    if not settings.camera:
        return Finding("update", False, "a box that asks for its bundle needs a name (camera)")
    try:
        update.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=update.folder):
            pass
    except OSError as error:
        text = f"{update.folder} cannot be written: {error.strerror} ({config.place('update.folder')})"
        return Finding("update", False, text)
    try:
        with source_of(settings.cloud, update.url).client() as http:
            status = http.get("/healthz").status_code
    except (httpx.HTTPError, httpx.InvalidURL, IsthmusError) as error:
        return Finding("update", False, f"{update.url}: {error or type(error).__name__} ({where})")
    if status != 200:
        return Finding("update", False, f"{update.url} answers {status}; is it an Isthmus cloud? ({where})")
    return Finding(
        "update", True, f"{update.url} is asked as {settings.camera}; bundles go to {update.folder}"
    )


async def _cloud(config: BoxConfig, bundle: Bundle | None) -> Finding:
    link, where = config.settings.cloud, config.place("cloud.address")
    try:
        async with Client(link) as client:
            served = await client.describe()
    except IsthmusError as error:
        if isinstance(error, RemoteRejectedError) and error.code in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
            where = config.place("cloud.token" if link.token_file is None else "cloud.token_file")
        return Finding("cloud", False, f"{link.address}: {error} ({where})")
    theirs = ", ".join(f"{one.name} ({one.fingerprint})" for one in served)
    if bundle is not None and bundle.fingerprint.hex() not in {one.fingerprint for one in served}:
        ours = f"{bundle.manifest.name} ({bundle.fingerprint.hex()})"
        text = (
            f"{link.address} serves {theirs}, and not {ours} of this box ({where}; {config.place('bundle')})"
        )
        return Finding("cloud", False, text)
    known = {task.name for one in served for task in one.tasks}
    for name, source in config.sources.items():
        missing = sorted(set(source.tasks) - known)
        if missing:
            text = f"{link.address} has no task {', '.join(missing)}; there are {', '.join(sorted(known))}"
            return Finding("cloud", False, f"{text} ({config.place(f'sources.{name}.tasks')})")
    return Finding("cloud", True, f"{link.address} serves {theirs}")


async def _source(config: BoxConfig, name: str, settings: SourceSettings) -> Finding:
    """Runs a source until its first image, or its first trouble."""
    what, where = f"source {name}", config.place(f"sources.{name}.url")
    if settings.kind == "folder":
        writes = settings.after != "keep"
        good = os.access(settings.url, os.R_OK | os.X_OK | os.W_OK * writes)
        wrong = f"{settings.url} is no folder that can be read{' and written' * writes} ({where})"
        return Finding(what, good, f"{Path(settings.url)} is there" if good else wrong)
    source = Source(name, settings.model_copy(update={"motion": None, "schedule": ()}))
    first: asyncio.Future[Message] = asyncio.get_running_loop().create_future()

    async def accept(message: Message) -> None:
        if not first.done():
            first.set_result(message)

    task = asyncio.create_task(source.run(accept))
    try:
        until = time.monotonic() + max(SOURCE_S, settings.stall_ms / 1e3)
        while not first.done() and not source.state.trouble and time.monotonic() < until and not task.done():
            await asyncio.sleep(0.02)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    if first.done() and (image := first.result().image) is not None:
        return Finding(
            what, True, f"{settings.place}: images of {image.width} x {image.height} as the front sees them"
        )
    return Finding(what, False, f"{settings.place}: {source.state.trouble or 'no image came'} ({where})")
