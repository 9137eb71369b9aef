"""Turns messages of the wire into packets of `shared.types` and back, and errors into gRPC statuses and back.

Both directions of each message stand here, so that an edge and a cloud cannot read one differently. What comes from the
network is checked as it is turned into a packet.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import grpc
from pydantic import ValidationError

from shared.errors import (
    IsthmusError,
    RemoteError,
    RequestError,
    exit_of,
)
from shared.times import captured_at_number, captured_at_of
from shared.kinds import KINDS
from shared.types import TASKS_MAX, Analysis, BundleInfo, ByteCount, Maps, TaskInfo, TaskQuery, TaskResult, Times, Wanted
from shared.wire import analyzer_pb2 as pb

DEFAULT_TOP_K = 5

MAPS: dict[Maps, pb.Maps] = {"none": pb.MAPS_NONE, "png": pb.MAPS_PNG, "arrays": pb.MAPS_ARRAYS}
_MAPS_BACK = {number: name for name, number in MAPS.items()}

# Kinds with a message of their own; every other one travels as Custom.
_CUSTOM = "custom"
_MEMBERS = {field.name for field in pb.TaskResult.DESCRIPTOR.oneofs_by_name["result"].fields} - {_CUSTOM}

_TEXT_MAX = 2000  # a status travels in HTTP/2 trailers, which have a limit of 8 KiB


def request_message(
    request_id: str,
    bitstream: bytes,
    wanted: Wanted,
    camera: str = "",
    captured_at: datetime | None = None,
) -> pb.AnalyzeRequest:
    """A request. Raises RequestError for a capture time without a zone or not after the start of 1970."""
    return pb.AnalyzeRequest(
        request_id=request_id,
        bitstream=bitstream,
        tasks=query_messages(wanted),
        top_k=wanted.top_k,
        camera=camera,
        maps=MAPS[wanted.maps],
        captured_at=captured_at_number(captured_at),
    )


def query_messages(wanted: Wanted) -> list[pb.TaskQuery]:
    """The tasks that are named."""
    return [pb.TaskQuery(name=q.name, top_k=q.top_k, maps=MAPS[q.maps]) for q in wanted.tasks]


def wanted_of(message: pb.AnalyzeRequest | pb.SessionOpen | pb.RefineRequest) -> Wanted:
    """What a message asks for. Raises RequestError where a number or a name is out of range."""
    if len(message.tasks) > TASKS_MAX:  # before an object is made of each: a message may hold a million
        raise RequestError(f"tasks: {len(message.tasks)} of them; a request may name {TASKS_MAX}")
    top_k = message.top_k or DEFAULT_TOP_K
    maps = _maps_of(message.maps, "none")
    try:
        return Wanted(
            tasks=tuple(
                TaskQuery(name=task.name, top_k=task.top_k or top_k, maps=_maps_of(task.maps, maps))
                for task in message.tasks
            ),
            top_k=top_k,
            maps=maps,
        )
    except ValidationError as error:
        raise RequestError(first_of(error)) from None


def response_message(analysis: Analysis) -> pb.AnalyzeResponse:
    """An answer. Raises RequestError for a capture time without a zone or not after the start of 1970."""
    return pb.AnalyzeResponse(
        request_id=analysis.request_id,
        bundle=analysis.bundle,
        fingerprint=analysis.fingerprint,
        quality=analysis.quality,
        results=[result_message(task, result) for task, result in analysis.results.items()],
        bytes=count_message(analysis.bytes),
        times=times_message(analysis.times),
        captured_at=captured_at_number(analysis.captured_at),
        warnings=analysis.warnings,
    )


def analysis_of(message: pb.AnalyzeResponse) -> Analysis:
    """The answer. Raises RemoteError where it is not one that a cloud of this version gives."""
    try:
        return Analysis(
            request_id=message.request_id,
            bundle=message.bundle,
            fingerprint=message.fingerprint,
            quality=message.quality,
            results={result.task: result_of(result) for result in message.results},
            bytes=count_of(message.bytes),
            times=times_of(message.times),
            captured_at=captured_at_of(message.captured_at),
            warnings=tuple(message.warnings),
        )
    except ValidationError as error:
        raise RemoteError(f"the cloud's answer cannot be read: {first_of(error)}") from None
    except RequestError as error:
        raise RemoteError(f"the cloud's answer cannot be read: {error}") from None


def count_message(count: ByteCount) -> pb.ByteCount:
    return pb.ByteCount(b_v=count.b_v, b_z=count.b_z, total=count.total, bits_per_pixel=count.bits_per_pixel)


def count_of(count: pb.ByteCount) -> ByteCount:
    """Raises ValidationError."""
    return ByteCount(b_v=count.b_v, b_z=count.b_z, total=count.total, bits_per_pixel=count.bits_per_pixel)


def times_message(times: Times) -> pb.Times:
    return pb.Times(queue_ms=times.queue_ms, decode_ms=times.decode_ms, tails_ms=times.tails_ms)


def times_of(times: pb.Times) -> Times:
    return Times(
        queue_ms=times.queue_ms if times.HasField("queue_ms") else None,
        decode_ms=times.decode_ms if times.HasField("decode_ms") else None,
        tails_ms=times.tails_ms if times.HasField("tails_ms") else None,
    )


def describe_message(bundles: Sequence[BundleInfo], wanted: str = "") -> pb.DescribeResponse:
    """wanted: fingerprint of the bundle that the camera should run, hex; empty: the one that it runs."""
    return pb.DescribeResponse(
        wanted=wanted,
        bundles=[
            pb.Bundle(
                name=bundle.name,
                fingerprint=bundle.fingerprint,
                qualities=bundle.qualities,
                default_quality=bundle.default_quality,
                tasks=[pb.Task(name=t.name, kind=t.kind, labels=t.labels, ids=t.ids) for t in bundle.tasks],
            )
            for bundle in bundles
        ]
    )


def bundles_of(message: pb.DescribeResponse) -> list[BundleInfo]:
    """What a cloud serves. Raises RemoteError where a bundle holds something that this version does not know."""
    try:
        return [
            BundleInfo(
                name=bundle.name,
                fingerprint=bundle.fingerprint,
                qualities=tuple(bundle.qualities),
                default_quality=bundle.default_quality,
                tasks=tuple(
                    TaskInfo.model_validate(
                        {"name": t.name, "kind": t.kind, "labels": tuple(t.labels), "ids": tuple(t.ids)}
                    )
                    for t in bundle.tasks
                ),
            )
            for bundle in message.bundles
        ]
    except ValidationError as error:
        raise RemoteError(f"the cloud's description cannot be read: {first_of(error)}") from None


def status_of(error: BaseException) -> tuple[grpc.StatusCode, str]:
    """The status that an error ends a call with. Internals of errors that were not raised on purpose stay hidden."""
    text = str(error) if isinstance(error, IsthmusError) else "internal error; the server's log has more"
    return grpc.StatusCode[exit_of(error).grpc], text[:_TEXT_MAX]


def error_message(error: BaseException) -> pb.ErrorStatus:
    code, text = status_of(error)
    return pb.ErrorStatus(code=code.value[0], text=text)


def _maps_of(number: pb.Maps, unspecified: Maps) -> Maps:
    if number == pb.MAPS_UNSPECIFIED:
        return unspecified
    if number not in _MAPS_BACK:
        raise RequestError(
            f"maps: {number} is none of the numbers that this server knows; see Maps in the contract"
        )
    return _MAPS_BACK[number]


def result_message(task: str, result: TaskResult) -> pb.TaskResult:
    """One result, whatever its kind."""
    message = pb.TaskResult(task=task)
    member = getattr(message, result.kind if result.kind in _MEMBERS else _CUSTOM)
    member.SetInParent()
    if result.kind not in _MEMBERS:
        member.kind = result.kind
    KINDS[result.kind].write(result, member)
    return message


def result_of(message: pb.TaskResult) -> TaskResult:
    """Raises RemoteError for a kind that is not known here, and ValidationError."""
    member = message.WhichOneof("result")
    kind = KINDS.get(message.custom.kind if member == _CUSTOM else member or "")
    if kind is None or member is None:
        raise RemoteError(
            f"the cloud's result of task {message.task!r} is of a kind unknown here; update this edge"
        )
    result: TaskResult = kind.read(getattr(message, member))
    return result


def first_of(error: ValidationError) -> str:
    """The first thing that is wrong, on one line."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}"
