"""Lists every field of a bitstream of either version, and of a log of frames. Decodes no payload."""

from __future__ import annotations

import json
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import BinaryIO

from shared.codec.bitstream import FINGERPRINT_BYTES, MAGIC, VERSION, Bitstream
from shared.codec.frame import MAGIC_2, Frame, FrameType, Packet
from shared.codec.session_log import MAGIC_LOG, LogHeader, LogReader, LogRecord
from shared.codec.session_log import VERSION as LOG_VERSION
from shared.process.report import Field, Report
from shared.times import from_microseconds, to_rfc3339

_OF_BUNDLE = "of the bundle that made it"
_QUALITY = "0..100, on the scale of the bundle that made it"
_HEX = "hexadecimal"
_QUALITIES_MAX = 1024


def inspect_bitstream(data: bytes, name: str) -> Report:
    """Lists the fields of a packed bitstream of version 1 or 2. Raises BitstreamError or a subclass."""
    fields = _packet_fields(data) if data[:1] == bytes([MAGIC_2]) else _version_1_fields(data)
    return Report(f"{name}: an Isthmus bitstream", tuple(fields))


def _version_1_fields(data: bytes) -> Iterator[Field]:
    stream = Bitstream.unpack(data)
    payload = len(stream.b_v) + len(stream.b_z)
    yield Field("magic", f"0x{MAGIC:02x}")
    yield Field("version", VERSION)
    yield Field("fingerprint", stream.fingerprint.hex(), _OF_BUNDLE)
    yield Field("quality", stream.quality, _QUALITY)
    yield Field("h", stream.h, "rows of the latent grid")
    yield Field("w", stream.w, "columns of the latent grid")
    yield Field("b_v.bytes", len(stream.b_v), "coded hyperprior")
    yield Field("b_z.bytes", len(stream.b_z), "coded latent")
    yield _crc(data)
    yield _total(data, payload)
    yield Field("b_v", stream.b_v.hex(), _HEX)
    yield Field("b_z", stream.b_z.hex(), _HEX)


def _packet_fields(data: bytes) -> Iterator[Field]:
    packet = Packet.unpack(data)
    frame = packet.frame
    h, w = packet.grid or (None, None)
    own = "" if packet.grid else "; the bundle's own"
    yield Field("magic", f"0x{MAGIC_2:02x}")
    yield Field("version", 2)
    yield Field("fingerprint", packet.fingerprint.hex(), _OF_BUNDLE)
    yield Field("type", frame.type.name, "I: by itself; P: given its reference; S: as its reference")
    yield Field("layers", _layers(frame), "v: hyperprior, the base; z: latent, the refinement")
    yield Field("quality", frame.quality, _QUALITY)
    yield Field("h", h, f"rows of the latent grid{own}")
    yield Field("w", w, f"columns of the latent grid{own}")
    reference = packet.reference.hex() if packet.reference else None
    yield Field("reference", reference, "first bytes of its digest")
    yield Field("payload.bytes", len(frame.payload), "v and z that are in it, as one run of the range coder")
    yield _crc(data)
    yield _total(data, len(frame.payload))
    yield Field("payload", frame.payload.hex(), _HEX)


def _layers(frame: Frame) -> list[str]:
    return [name for name, there in (("v", frame.own_v), ("z", frame.has_z)) if there]


def _crc(data: bytes) -> Field:
    return Field("crc32", data[-4:][::-1].hex(), "of all bytes before it; it fits")


def _total(data: bytes, payload: int) -> Field:
    return Field("total.bytes", len(data), f"{len(data) - payload} of them container")


@dataclass(frozen=True)
class LogLine:
    """One frame of a log. at_s: since the start. quality: None if it is that of a frame which is not in the log."""

    at_s: float
    number: int
    type: str
    quality: int | None
    own_v: bool
    bytes: int
    reference: int | None

    def as_text(self) -> str:
        quality = "-" if self.quality is None else self.quality
        own_v, reference = "own v" if self.own_v else "-", self.reference or "-"
        return (
            f"{self.at_s:10.3f} {self.number:8} {self.type:<12} {quality:>7} {own_v:>5} {self.bytes:7} "
            f"{reference:>9}"
        )


_HEAD = f"{'seconds':>10} {'number':>8} {'type':<12} {'quality':>7} {'v':>5} {'bytes':>7} {'reference':>9}"


def is_log(first: bytes) -> bool:
    """Whether a file that begins like this is a log of frames."""
    return first[:1] == bytes([MAGIC_LOG])


def inspect_log(file: BinaryIO, name: str, as_json: bool = False) -> Iterator[str]:
    """A log as lines: its header, a line a frame, and totals by type; as JSON, one document a line.

    Keeps little of what was printed, so that a log may have any length. Raises BitstreamError or a subclass, after
    everything before the damage.
    """
    reader = LogReader(file)
    header = _log_header(reader.header, name)
    yield json.dumps({field.name: field.value for field in header.fields}) if as_json else header.as_text()
    if not as_json:
        yield f"\n{_HEAD}"
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for line in _log_lines(reader):
        counts[line.type] += 1
        sizes[line.type] += line.bytes
        yield json.dumps(asdict(line)) if as_json else line.as_text()
    totals = {kind: {"frames": counts[kind], "bytes": sizes[kind]} for kind in sorted(counts)}
    if as_json:
        yield json.dumps({"totals": totals})
        return
    yield ""
    for kind in [*totals, "all"]:
        frames = counts[kind] if kind != "all" else counts.total()
        size = sizes[kind] if kind != "all" else sizes.total()
        yield f"{kind:<12} {frames:8} frames {size:10} bytes" + (
            f" {size / frames:8.1f} each" if frames else ""
        )


def _log_header(header: LogHeader, name: str) -> Report:
    h, w = header.grid
    started = header.started_at_us
    fields = (
        Field("magic", f"0x{MAGIC_LOG:02x}"),
        Field("version", LOG_VERSION),
        Field(
            "fingerprint",
            header.fingerprint.hex(),
            f"{_OF_BUNDLE}; bitstreams carry {header.fingerprint[:FINGERPRINT_BYTES].hex()}",
        ),
        Field("session", header.session.hex(), "random"),
        Field("h", h, "rows of the latent grid"),
        Field("w", w, "columns of the latent grid"),
        Field("start", _start(started), "when seconds count from 0" if started else "unknown"),
    )
    return Report(f"{name}: a log of Isthmus frames", fields)


def _start(microseconds: int) -> str | None:
    try:
        return to_rfc3339(from_microseconds(microseconds)) if microseconds else None
    except OverflowError:
        return f"{microseconds} microseconds after 1970"


def _log_lines(records: Iterable[LogRecord]) -> Iterator[LogLine]:
    qualities: OrderedDict[int, int] = OrderedDict()  # frames S name none; the last used at the end
    for record in records:
        frame = record.frame
        quality: int | None = frame.quality
        if frame.type is FrameType.S:
            quality = qualities.get(record.reference or 0)
        for number in (record.reference, record.number):
            if quality is not None and number is not None:
                qualities[number] = quality
                qualities.move_to_end(number)
        while len(qualities) > _QUALITIES_MAX:
            qualities.popitem(last=False)
        yield LogLine(
            record.at_ms / 1e3,
            record.number,
            frame.name,
            quality,
            frame.own_v,
            len(record.data),
            record.reference,
        )
