"""What the model of fleets starts from: each number from a page of results, from a default of ours, or assumed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from cloud.segments.segment import RECORDS_MAX
from shared.errors import RequestError

Kind = Literal["measured", "default", "assumed"]

THROUGHPUT = "2026-11-22-throughput-machine-a.md"
WIRE = "2026-11-29-wire-machine-b.md"
SESSIONS = "2026-11-29-sessions-machine-b.md"
ARCHIVE = "2026-11-29-archive-machine-b.md"
# Rows of those pages, as they stand there.
_STILL = "| still, fresh noise | session, answers wait 1 s | TLS | S 100% | 100% | 0.0 | 51.2 | 12.2 | 63.4 |"
_PERSON = (
    "| a person walks | session, answers wait 1 s | TLS | P 54%, S 46% | 56% | 27.7 | 88.8 | 161.1 | 249.9 |"
)
_INTRA = "| a person walks | session, I alone | TLS | I 100% | 28% | 315.8 | 391.8 | 265.4 | 657.1 |"
_OPEN = "| session, answers wait 1 s | TLS | 1452 | 2301 |"
_ALL = "| all tasks | 16 | 0.01 | 0.76 | 17.05 | 2.25 | 0.03 | 1.67 | 21.77 |"
_CLASS = "| classification alone | 16 | 0.01 | 1.83 | 2.05 | 0.03 | 0.02 | -0.85 | 3.09 |"
_DATA = "| segments' data | 27.4 | 27.4 |"
_INDEX = "| segments' indices | 7.2 | 7.2 |"
_HEAD = "| database, before | 237.6 | 237.6 |"
_WRITE = "| write (a server's archive) | 1,000,000 | 211.5 | 43.3 | 4,728 |"
_SAME = "| as before, round 1 | 10,000 | 351 | 27 | 180 | 0.65 | 1164 |"
_SESSION = "Memory a session: 61 KB above a warm cloud's 568 MB."
_TCP = "What TCP and IP add, 40 to 66 bytes a segment, is not counted."


@dataclass(frozen=True)
class Input:
    """One number. page: of docs/results that has it. quoted: the text there. setting: of ours that it is the default
    of."""

    name: str
    value: float
    unit: str
    what: str
    page: str = ""
    quoted: str = ""
    setting: str = ""

    @property
    def kind(self) -> Kind:
        return "measured" if self.page else "default" if self.setting else "assumed"


def _wire(name: str, value: float, what: str, quoted: str, unit: str = "bytes") -> Input:
    return Input(name, value, unit, what, WIRE, quoted)


def _archive(name: str, value: float, what: str, quoted: str, unit: str = "bytes") -> Input:
    return Input(name, value, unit, what, ARCHIVE, quoted)


def _assumed(name: str, value: float, unit: str, what: str) -> Input:
    return Input(name, value, unit, what)


INPUTS: tuple[Input, ...] = (
    _assumed("fps", 1, "frames/s", "frames that a camera sends"),
    _assumed("busy", 0.2, "share", "time in which something moves before a camera"),
    Input("intra_every_s", 60, "s", "a frame I is due so often", setting="session.intra_every_s (edge)"),
    _wire("p_busy", 0.54, "frames P while something moves; the others are S", _PERSON, "share"),
    _wire("still_up", 51.2, "a frame up, nothing moves, TLS", _STILL),
    _wire("still_down", 12.2, "the same, down", _STILL),
    _wire("busy_up", 88.8, "a frame up, a person walks, TLS", _PERSON),
    _wire("busy_down", 161.1, "the same, down", _PERSON),
    _wire("intra_up", 391.8, "a frame I up, TLS", _INTRA),
    _wire("intra_down", 265.4, "the same, down", _INTRA),
    _wire("open_up", 1452, "until the first answer of a session, up, TLS", _OPEN),
    _wire("open_down", 2301, "the same, down", _OPEN),
    _wire("tcp_ip", 66, "TCP and IP a segment, at most", _TCP),
    _assumed("segments", 2, "a frame", "TCP segments up, and as many down"),
    Input("decode_ms", 0.76, "ms", "b_v and b_z to z, a core, all tasks", THROUGHPUT, _ALL),
    Input("forward_ms", 17.05, "ms", "reconstruction and tails, all tasks", THROUGHPUT, _ALL),
    Input("results_ms", 2.25, "ms", "answers from what the tails gave", THROUGHPUT, _ALL),
    Input("rest_ms", 1.67, "ms", "gRPC, queue and asyncio of an image that is answered", THROUGHPUT, _ALL),
    Input("same_ms", 0.65, "ms", "the whole of a frame S in a session", SESSIONS, _SAME),
    Input(
        "class_ms", 3.09, "ms", "the whole of an image of which only the class is asked", THROUGHPUT, _CLASS
    ),
    _assumed("tls_ms", 2, "ms", "a core, for opening a TLS connection"),
    Input("session_kb", 61, "KB", "memory of a session of which the class is asked", SESSIONS, _SESSION),
    Input("sessions_max", 128, "", "sessions of one process", setting="sessions.open_max"),
    _archive("data_bytes", 27.4, "a record's bitstream in a segment, half of the cameras busy", _DATA),
    _archive("index_bytes", 7.2, "a record's row in the index of a segment", _INDEX),
    Input(
        "segment_records", RECORDS_MAX, "", "records of a segment, at most", setting="segments (a constant)"
    ),
    _assumed("segments_listed", 10_000, "", "segments that a command looks through in an acceptable time"),
    _archive("head_bytes", 237.6, "a record in a server's database", _HEAD),
    _archive("write_rate", 4728, "that one server's archive took on a busy machine", _WRITE, "records/s"),
    _assumed("utilisation", 0.6, "share", "of the cores that are paid, busy on average"),
    _assumed("zones", 3, "", "of which one may be lost"),
    _assumed("machine_cores", 32, "", "of a machine, one process a core"),
    _assumed("machine_gbit", 10, "Gbit/s", "network of a machine"),
    _assumed("kept_days", 365, "days", "that records are kept"),
    _assumed("core_price", 0.04, "$/h", "a core with its memory, on demand"),
    _assumed("storage_price", 0.023, "$/GB/month", "object storage"),
    _assumed("egress_price", 0.09, "$/GB", "bytes down, out of the cloud; bytes up cost nothing there"),
    _assumed("replay_cores", 1000, "", "that a replay of a year is given"),
)


def inputs_with(changed: dict[str, float]) -> tuple[Input, ...]:
    """The inputs, some with other values, which are then assumed. Raises RequestError for a name that is none."""
    names = [one.name for one in INPUTS]
    if unknown := next((name for name in changed if name not in names), None):
        raise RequestError(
            f"{unknown!r} is no input of the model; there are {', '.join(names)}", setting="set"
        )
    return tuple(
        replace(one, value=changed[one.name], page="", setting="") if one.name in changed else one
        for one in INPUTS
    )
