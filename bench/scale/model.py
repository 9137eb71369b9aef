"""Fleets of cameras by arithmetic: link, cores, memory, storage, cost, what breaks first. Knows no page.

Everything is linear in cameras but what one process, one machine or one zone holds; those come in whole numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from types import SimpleNamespace

from bench.scale.inputs import Input

SIZES = (10, 1_000, 100_000, 1_000_000)
_BY_DAY = "seal each day into a store of its own (--store)"
_DAY_S, _MONTH_H, _YEAR_S = 86_400, 730, 365 * 86_400


@dataclass(frozen=True)
class Camera:
    """One camera, on average over busy and quiet times.

    intra, predicted, same: shares of its frames. up, down: bits a second on the link, TCP and IP included. decode,
    tails, rest: core-seconds a second; tails with results. kept: bytes of a record in a segment.
    """

    fps: float
    intra: float
    predicted: float
    same: float
    up: float
    down: float
    decode: float
    tails: float
    rest: float
    kept: float

    @property
    def cores(self) -> float:
        return self.decode + self.tails + self.rest


@dataclass(frozen=True)
class Fleet:
    """Many cameras. cores: that are busy. paid_cores: with headroom, and with the spare ones for a lost zone.

    processes, machines: at least. memory_gb: of sessions. stored_gb, segments: once the kept days are
    there. dollars: a month, by what they pay for.
    """

    cameras: int
    camera: Camera
    cores: float
    paid_cores: int
    processes: int
    machines: int
    memory_gb: float
    stored_gb: float
    segments: float
    dollars: dict[str, float]

    @property
    def dollars_a_camera(self) -> float:
        return sum(self.dollars.values()) / self.cameras


@dataclass(frozen=True)
class Limit:
    """What one of something holds. cameras: that fill it. then: what to do."""

    what: str
    cameras: float
    then: str


@dataclass(frozen=True)
class LostZone:
    """What follows the loss of a zone. core_s: to open sessions and answer a frame I each. seconds: with the cores of
    the other zones that are free. gb_up: of opening. unsealed_gb: of records in the databases there, sealed once a day.
    """

    sessions: int
    core_s: float
    seconds: float
    gb_up: float
    unsealed_gb: float


@dataclass(frozen=True)
class YearReplay:
    """One task asked of a year. answers: frames that need tails; frames S repeat an answer."""

    frames: float
    answers: float
    core_hours: float
    hours: float
    dollars: float


def values(inputs: Sequence[Input]) -> SimpleNamespace:
    """The inputs by name."""
    return SimpleNamespace(**{one.name: one.value for one in inputs})


def camera_of(inputs: Sequence[Input]) -> Camera:
    v = values(inputs)
    intra = min(1.0, 1 / (v.fps * v.intra_every_s))
    predicted = (1 - intra) * v.busy * v.p_busy
    answered, above = intra + predicted, v.segments * v.tcp_ip

    def mean(still: float, busy: float, first: float) -> float:
        rest = (1 - v.busy) * still + v.busy * busy
        return 8 * v.fps * (above + (1 - intra) * rest + intra * first)

    return Camera(
        fps=v.fps,
        intra=intra,
        predicted=predicted,
        same=1 - answered,
        up=mean(v.still_up, v.busy_up, v.intra_up),
        down=mean(v.still_down, v.busy_down, v.intra_down),
        decode=v.fps * answered * v.decode_ms / 1e3,
        tails=v.fps * answered * (v.forward_ms + v.results_ms) / 1e3,
        rest=v.fps * (answered * v.rest_ms + (1 - answered) * v.same_ms) / 1e3,
        kept=v.data_bytes + v.index_bytes,
    )


def fleet_of(inputs: Sequence[Input], cameras: int) -> Fleet:
    v, camera = values(inputs), camera_of(inputs)
    cores = cameras * camera.cores
    paid = ceil(cores / v.utilisation * v.zones / (v.zones - 1))
    stored_gb = cameras * v.fps * camera.kept * v.kept_days * _DAY_S / 1e9
    down_gb = cameras * camera.down / 8 * _MONTH_H * 3600 / 1e9
    return Fleet(
        cameras=cameras,
        camera=camera,
        cores=cores,
        paid_cores=paid,
        processes=max(paid, ceil(cameras / v.sessions_max)),
        machines=max(ceil(paid / v.machine_cores), ceil(cameras * camera.up / (1e9 * v.machine_gbit))),
        memory_gb=cameras * v.session_kb / 1e6,
        stored_gb=stored_gb,
        segments=cameras * v.fps * v.kept_days * _DAY_S / v.segment_records,
        dollars={
            "cores": paid * v.core_price * _MONTH_H,
            "storage": stored_gb * v.storage_price,
            "bytes down": down_gb * v.egress_price,
        },
    )


def limits_of(inputs: Sequence[Input]) -> list[Limit]:
    """What one process, one machine or one zone holds, the smallest first."""
    v, camera = values(inputs), camera_of(inputs)
    a_day = v.fps * _DAY_S
    found = [
        Limit("open sessions of a process, by default", v.sessions_max, "raise sessions.open_max"),
        Limit(
            "a store of all kept days", v.segments_listed * v.segment_records / (a_day * v.kept_days), _BY_DAY
        ),
        Limit("a store of one day", v.segments_listed * v.segment_records / a_day, "a store a region, too"),
        Limit(
            "one core, all tasks",
            v.utilisation / camera.cores,
            "a process more a core, or an engine of several",
        ),
        Limit(
            "a database of 1 GiB, sealed once a day", (1 << 30) / (a_day * v.head_bytes), "seal more often"
        ),
        Limit("a machine's cores", v.machine_cores * v.utilisation / camera.cores, "more machines, or a GPU"),
        Limit("one archive's writer", v.write_rate / v.fps, "an archive a process"),
        Limit("a machine's network", 1e9 * v.machine_gbit / max(camera.up, camera.down), "more machines"),
    ]
    return sorted(found, key=lambda one: one.cameras)


def lost_zone(inputs: Sequence[Input], cameras: int) -> LostZone:
    v, fleet = values(inputs), fleet_of(inputs, cameras)
    sessions = ceil(cameras / v.zones)
    a_frame = v.decode_ms + v.forward_ms + v.results_ms + v.rest_ms
    core_s = sessions * (a_frame + v.tls_ms) / 1e3
    free = fleet.paid_cores * (v.zones - 1) / v.zones - fleet.cores
    unsealed = sessions * v.fps * _DAY_S * v.head_bytes / 1e9
    return LostZone(sessions, core_s, core_s / free, sessions * v.open_up / 1e9, unsealed)


def year_replay(inputs: Sequence[Input], cameras: int, *, class_alone: bool) -> YearReplay:
    v, camera = values(inputs), camera_of(inputs)
    frames = cameras * v.fps * _YEAR_S
    answers = frames * (1 - camera.same)
    ms = v.class_ms if class_alone else v.decode_ms + v.forward_ms + v.results_ms
    core_hours = answers * ms / 3.6e6
    return YearReplay(frames, answers, core_hours, core_hours / v.replay_cores, core_hours * v.core_price)
