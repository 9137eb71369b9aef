"""Settings of the batches of single bundles, which go before those of all. Owner: `cloud.pipeline`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from pydantic import Field

from cloud.engine.batcher import Pace
from shared.bundle import Bundle
from shared.process.config import Section

MARK_MIN = 8  # digits of a fingerprint that name a bundle


class BatchSettings(Section):
    """One table [pipeline.bundles.NAME]."""

    batch_max: int | None = Field(
        default=None,
        ge=1,
        description="images in one batch of the bundle with this folder, name or first 8 or more digits of its "
        "fingerprint; [pipeline] and flags hold where this says nothing",
    )
    batch_wait_ms: float | None = Field(
        default=None, ge=0, description="how long the first image of such a batch waits for more"
    )


def pace_of(bundle: Bundle, general: Pace, own: Mapping[str, BatchSettings]) -> Pace:
    """The pace of a bundle. own: by name; a fingerprint goes before a folder, and a folder before the bundle's name."""
    batch_max, wait_ms = general.batch_max, general.wait_ms
    for name in sorted(own, key=lambda name: _names(bundle, name)):
        if _names(bundle, name):
            batch_max = own[name].batch_max or batch_max
            given_ms = own[name].batch_wait_ms
            wait_ms = wait_ms if given_ms is None else given_ms
    return Pace(batch_max, wait_ms)


def unmatched(own: Iterable[str], bundles: Collection[Bundle]) -> list[str]:
    """Names that none of these bundles has."""
    return [name for name in own if not any(_names(bundle, name) for bundle in bundles)]


def _names(bundle: Bundle, name: str) -> int:
    """How exactly a name means a bundle: 0 not at all, 1 by its own name, 2 by its folder's, 3 by its fingerprint."""
    if len(name) >= MARK_MIN and bundle.manifest.fingerprint.startswith(name):
        return 3
    return 2 if name == bundle.path.name else int(name == bundle.manifest.name)
