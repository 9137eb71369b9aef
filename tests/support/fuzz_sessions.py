"""A session whose link damages, swaps, repeats and reorders, against the truth. Meant to run in a process of its own.

    python -m support.fuzz_sessions --count 5000 [--seed 0] [--memory-mb 512]

An edge sends frames of every type; what arrives is the frame, another one, noise, or the frame damaged, with its check
made right on purpose for some. Each must end in an outcome that the protocol has. An answer to what the edge sent must
be that of the edge's own latent, and later frames only refer to what was answered.
A damaged frame passes its check once in 65,536 times for each reference it may have; the report counts those.
Prints a JSON object; exit status 1 and the frames themselves on failure.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import signal
import sys
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from cloud.sessions.session import SessionLimits, Settled
from shared.codec import frame as frame_module
from shared.codec.frame_codec import Latent
from shared.errors import IsthmusError
from shared.session_packets import Answered, NeedIntra, Refused, SameAs, confirms
from support.fuzz_streams import limit_memory
from support.session_ends import (
    CloudEnd,
    EdgeEnd,
    answer_of,
    changed_latent,
    open_of,
    random_latent,
    small_codec,
)

Random = np.random.Generator

BYTES_MAX = 40_000  # of a session's references


@dataclass
class Link:
    """The edge's side. confirmed: latents that may be referred to. sent: bytes and latent by number."""

    edge: EdgeEnd
    rng: Random
    confirmed: list[Latent] = field(default_factory=list)
    sent: dict[int, tuple[bytes, Latent]] = field(default_factory=dict)
    number: int = 0

    def next(self) -> int:
        """Makes another frame; its number."""
        self.number += 1
        number, rng = self.number, self.rng
        whole = [one for one in self.confirmed[-6:] if one.z is not None]
        bases = [one for one in self.confirmed[-6:] if one.z is None]
        fresh = random_latent(int(rng.integers(1 << 30)))
        kind = rng.integers(6)
        if kind == 0 and whole:
            reference = whole[rng.integers(len(whole))]
            latent = changed_latent(reference, number, int(rng.integers(1, 9)))
            data = self.edge.predicted(number, latent, reference, own_v=bool(rng.integers(2)))
        elif kind == 1 and self.confirmed:
            latent = self.confirmed[-1 - rng.integers(min(6, len(self.confirmed)))]
            data = self.edge.same(number, latent)
        elif kind == 2 and bases:
            base = bases[rng.integers(len(bases))]
            latent = Latent(base.v, fresh.z, base.grid, base.quality)
            data = self.edge.refinement(number, latent)
        elif kind == 3:
            latent = fresh.base
            data = self.edge.intra(number, latent)
        else:
            latent = fresh
            data = self.edge.intra(number, latent)
        self.sent[number] = data, latent
        self.sent.pop(number - 50, None)
        return number


def damaged(data: bytes, link: Link) -> bytes:
    """Flipped, cut, extended, overwritten, mixed with another frame, or noise."""
    rng = link.rng
    out = bytearray(data)
    kind = rng.integers(6)
    if kind == 0:
        for bit in rng.integers(0, 8 * len(out), rng.integers(1, 9)):
            out[bit // 8] ^= 1 << bit % 8
    elif kind == 1:
        out = out[: rng.integers(len(out))]
    elif kind == 2:
        out += rng.bytes(int(rng.integers(1, 40)))
    elif kind == 3:
        at = int(rng.integers(len(out)))
        out[at : at + 8] = rng.bytes(int(rng.integers(1, 9)))
    elif kind == 4:
        other, _ = link.sent[int(rng.choice(list(link.sent)))]
        out = out[: rng.integers(len(out))] + other[rng.integers(len(other)) :]
    else:
        out = bytearray(out[:1]) + rng.bytes(int(rng.integers(0, 60)))
    return bytes(out)


def resealed(data: bytes, number: int, link: Link) -> bytes:
    """With the check made right on purpose, for a reference that is known or for none."""
    if len(data) < 3:
        return data
    names = [b"", *(one.digest for one in link.confirmed[-3:])]
    name = names[link.rng.integers(len(names))]
    body = data[:-2]
    return body + frame_module._check(link.edge.key, number, name, body)


def run(count: int, seed: int) -> dict[str, object]:
    rng = np.random.default_rng(seed)
    codec, opened = small_codec(), open_of("all")
    cloud = CloudEnd(codec, opened, SessionLimits(references_bytes_max=BYTES_MAX))
    link = Link(EdgeEnd(codec, opened), rng)
    ends: Counter[str] = Counter()
    failures: list[dict[str, str]] = []
    by_chance = 0
    for _ in range(count):
        number = link.next() if rng.random() < 0.7 or not link.sent else int(rng.choice(list(link.sent)))
        data, latent = link.sent[number]
        way = "sound"
        if rng.random() < 0.5:
            way, given = "damaged", damaged(data, link)
            if rng.random() < 0.3:
                way, given = "forged", resealed(given, number, link)
            data = data if given == data else given
            way = "sound" if data == link.sent[number][0] else way
        if rng.random() < 0.01:  # the cloud restarts
            cloud = CloudEnd(codec, opened, SessionLimits(references_bytes_max=BYTES_MAX))
        wrong = ""
        try:
            settled = cloud.receive(number, data)
            wrong = _judge(settled, way, number, latent)
            ends[f"{way}: {_name(settled)}"] += 1
        except BaseException as error:  # the very thing that must not happen
            wrong = f"{type(error).__name__}: {error}"
            ends[f"{way}: {wrong}"] += 1
            settled = None
        if settled is not None and confirms(settled.outcome):
            if way == "sound":
                link.confirmed = [*link.confirmed, latent][-12:]
            by_chance += way == "damaged"
        references = cloud.session.references
        if references.bytes > BYTES_MAX or len(references) > 8:
            wrong = f"{len(references)} references of {references.bytes} bytes"
        cloud.decoded.clear()
        if wrong:
            failures.append({"way": way, "wrong": wrong, "frame": data[:500].hex()})
            if len(failures) == 5:
                break
    return {"ends": dict(ends), "by_chance": by_chance, "failures": failures}


def _name(settled: Settled | None) -> str:
    if settled is None:
        return "in work"
    outcome = settled.outcome
    return type(outcome.error).__name__ if isinstance(outcome, Refused) else type(outcome).__name__


def _judge(settled: Settled | None, way: str, number: int, latent: Latent) -> str:
    """What is wrong with an outcome; empty if nothing is."""
    if settled is None:
        return "a frame stayed in work"
    outcome = settled.outcome
    if isinstance(outcome, Refused):
        text = str(outcome.error)
        if not isinstance(outcome.error, IsthmusError) or "\n" in text or not 0 < len(text) < 400:
            return f"an error that no user should see: {outcome.error!r}"
        return "" if way != "sound" or "was sent before" in text else f"a sound frame was refused: {text}"
    if isinstance(outcome, SameAs):
        return "the policy is to answer all"
    if way == "sound" and isinstance(outcome, Answered) and outcome != answer_of(latent):
        return f"frame {number} got another one's answer"
    return "" if isinstance(outcome, Answered | NeedIntra) else f"an outcome {outcome!r}"


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--memory-mb", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=600, help="the longest that the whole may take")
    options = parser.parse_args()
    faulthandler.enable()
    faulthandler.register(signal.SIGALRM, all_threads=True, chain=True)
    signal.setitimer(signal.ITIMER_REAL, options.seconds)
    limit_memory(options.memory_mb)
    report = run(options.count, options.seed)
    print(json.dumps(report, indent=1))
    return 1 if report["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
