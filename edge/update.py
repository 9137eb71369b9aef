"""Keeps a running edge on the bundle that its cloud wants for this camera.

    ask (Describe: what I run, what went wrong) -> another one is wanted -> downloaded, checked, loaded, run once
        -> taken between two frames -> `current` names it, for the next start

Whatever fails, the box stays on what it runs, logs why once, and says why when it asks again.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol

from edge.credentials import Bearer, client_pems
from edge.fetch import Source, fetch, sweep, sweep_parts
from edge.settings import CloudLink, EdgeSettings, UpdateSettings
from edge.trust import check_bundle, check_fingerprint, load
from shared.bundle import Bundle
from shared.encoder import Encoder
from shared.errors import BundleError, IsthmusError, RequestError
from shared.files import write_atomically

log = logging.getLogger("isthmus.edge.update")

CURRENT = "current"
REFUSED_S = 600.0  # before a bundle that must not be run is downloaded again


class Asks(Protocol):
    """The part of `edge.client.Client` that is asked."""

    async def wanted(self, camera: str, running: str, trouble: str) -> str: ...


class Updater:
    """running: the bundle that the edge runs. swap: gives it another encoder, between two frames.

    source: makes the way to the cloud's HTTP, with the token as it is then. threads: of ONNX Runtime. accepts: raises
    RequestError for a bundle that the edge's settings do not go with.
    """

    def __init__(
        self,
        settings: UpdateSettings,
        client: Asks,
        camera: str,
        running: Bundle,
        swap: Callable[[Encoder], None],
        source: Callable[[], Source],
        threads: int = 1,
        accepts: Callable[[Bundle], None] | None = None,
    ) -> None:
        assert settings.folder is not None  # as for every edge that asks
        self._folder, self._key, self._threads = settings.folder, settings.require_signature, threads
        self._client, self._camera, self._swap, self._source = client, camera, swap, source
        self.running = running.manifest.fingerprint
        self.trouble = ""
        self._accepts = accepts or (lambda _: None)
        self._refused = ("", 0.0)  # the bundle that must not be run, and until when

    async def run(self, wait: Callable[[], Awaitable[None]]) -> None:
        """Look for ever, each time that `wait` is over."""
        while True:
            await self.look()
            await wait()

    async def look(self) -> None:
        """Asks once, and does what is wanted. Raises nothing."""
        try:
            wanted = await self._client.wanted(self._camera, self.running, self.trouble)
            refused, until = self._refused
            if wanted == refused and asyncio.get_running_loop().time() < until:
                return
            if wanted and wanted != self.running:
                await self._take(wanted)
            self.trouble = ""
        except Exception as error:  # the outermost boundary: the edge goes on with what it runs
            known = isinstance(error, IsthmusError)
            trouble = str(error) if known else f"unexpected {type(error).__name__}: {error}"
            if trouble != self.trouble:
                log.error("stays on bundle %s: %s", self.running[:8], trouble)
            self.trouble = trouble

    async def _take(self, wanted: str) -> None:
        """Raises what can go wrong; the edge then runs what it ran."""
        try:
            encoder = await asyncio.to_thread(self._get, wanted)
        except BundleError:
            self._refused = (wanted, asyncio.get_running_loop().time() + REFUSED_S)
            raise
        self._accepts(encoder.bundle)  # the settings may have changed while it was loaded
        await asyncio.to_thread(self._remember, wanted)
        self._swap(encoder)
        before, self.running = self.running, wanted
        log.info("runs bundle %s from now on, in place of %s", wanted[:8], before[:8])
        await asyncio.to_thread(sweep, self._folder, {before, wanted})

    def _get(self, wanted: str) -> Encoder:
        """Blocking: the bundle from the disk, or else from the cloud."""
        check_fingerprint(wanted)
        place = self._folder / wanted
        if place.is_dir():
            try:
                return self._loaded(Bundle.open_without_added(place))
            except BundleError as error:
                log.warning("%s is downloaded anew: %s", place, error)
                sweep(self._folder, {one.name for one in self._folder.iterdir()} - {wanted})
        try:
            sweep_parts(self._folder, wanted)
        except OSError as error:
            raise RequestError(f"cannot tidy {self._folder}: {error.strerror}") from None
        check = partial(check_bundle, public_key=self._key)
        bundle = fetch(self._source(), wanted, place, check, attempts=1)
        return self._loaded(bundle)

    def _loaded(self, bundle: Bundle) -> Encoder:
        """Checks the settings first, so that a bundle which does not go with them is not loaded at each look."""
        self._accepts(bundle)
        return load(bundle, self._threads, self._key)

    def _remember(self, wanted: str) -> None:
        try:
            write_atomically(self._folder / CURRENT, wanted.encode() + b"\n")
        except OSError as error:
            raise RequestError(f"cannot write {self._folder / CURRENT}: {error.strerror}") from None


def first_bundle(settings: EdgeSettings) -> Bundle:
    """The bundle to begin with: the one that was taken last and is sound, or else the one of the settings.

    Raises BundleError or RequestError.
    """
    folder = settings.update.folder
    if folder is not None and (folder / CURRENT).exists():
        try:
            name = (folder / CURRENT).read_text("utf-8").strip()
            check_fingerprint(name)
            bundle = Bundle.open_without_added(folder / name)
            load(bundle, settings.encoder.threads, settings.update.require_signature)
        except (OSError, UnicodeDecodeError, IsthmusError) as error:
            log.error("begins with %s, not with what was downloaded: %s", settings.bundle, error)
        else:
            return bundle
    return Bundle.open(settings.bundle)


def source_of(link: CloudLink, url: str) -> Source:
    """The way to a cloud's HTTP with the token and certificates of its link. Raises RequestError."""
    header, pems = Bearer(link).header(), client_pems(link)
    context: ssl.SSLContext | bool = True
    if pems is not None:
        context = ssl.create_default_context(cafile=str(link.ca) if link.ca else None)
        if link.certificate and link.key:
            context.load_cert_chain(link.certificate, link.key)
    return Source(url, {} if header is None else {"Authorization": header}, context)
