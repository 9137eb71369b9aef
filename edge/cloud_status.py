"""What each gRPC status of a cloud means to an edge: the error it becomes, its line, and whether the call is repeated.

A repeat is harmless, because the cloud computes a request id once. It is also useful where the same call can succeed a
moment later: while a cloud starts, ends or is replaced. What the cloud decided it would decide again.
"""

from __future__ import annotations

from dataclasses import dataclass

import grpc

from shared.errors import (
    CloudUnreachableError,
    DeadlineError,
    OverloadedError,
    RemoteError,
    RemoteRejectedError,
)

Code = grpc.StatusCode


@dataclass(frozen=True)
class Meaning:
    """line: of the error, with {text} for the reason that came with the status. repeat: worth another attempt."""

    line: str
    repeat: bool = False


_STRANGE = "which no Isthmus cloud answers; is there another service at this address?"

# Every status but OK. A line that is the text alone is one that an Isthmus cloud raises on purpose.
MEANINGS: dict[grpc.StatusCode, Meaning] = {
    Code.CANCELLED: Meaning("the cloud ended the call before its answer: {text}", repeat=True),
    Code.UNKNOWN: Meaning("the cloud failed and gives no reason: {text}"),
    Code.INVALID_ARGUMENT: Meaning("{text}"),
    Code.DEADLINE_EXCEEDED: Meaning("{text}"),
    Code.NOT_FOUND: Meaning("{text}"),
    Code.ALREADY_EXISTS: Meaning("ALREADY_EXISTS, " + _STRANGE + " ({text})"),
    Code.PERMISSION_DENIED: Meaning("{text}"),
    Code.RESOURCE_EXHAUSTED: Meaning("{text}"),
    Code.FAILED_PRECONDITION: Meaning("{text}"),
    Code.ABORTED: Meaning("the cloud gave the call up: {text}", repeat=True),
    Code.OUT_OF_RANGE: Meaning("OUT_OF_RANGE, " + _STRANGE + " ({text})"),
    Code.UNIMPLEMENTED: Meaning(
        "the service at this address has no such call; is it an Isthmus cloud? ({text})"
    ),
    Code.INTERNAL: Meaning("the cloud failed: {text}"),
    Code.UNAVAILABLE: Meaning("{text}", repeat=True),
    Code.DATA_LOSS: Meaning("the cloud lost data of the call: {text}"),
    Code.UNAUTHENTICATED: Meaning("{text}"),
}


def error_of(code: grpc.StatusCode, text: str) -> RemoteError | OverloadedError:
    """The error for a call that ended with `code`. Worth another attempt exactly if it is CloudUnreachableError."""
    meaning = MEANINGS[code]
    line = meaning.line.format(text=text or "no reason given")
    if meaning.repeat:
        return CloudUnreachableError(line)
    if code is Code.DEADLINE_EXCEEDED:
        return DeadlineError(line)
    # gRPC ends a message beyond a limit with the same code as an overloaded cloud, but it would not pass later either.
    if code is Code.RESOURCE_EXHAUSTED and "message larger than max" not in text:
        return OverloadedError(line)
    return RemoteRejectedError(code.name, line)


def error_of_frame(error: Exception) -> Exception:
    """The error for one frame of a session, which is as the error for a call that ended with that status."""
    named = {code.name: code for code in MEANINGS}
    if isinstance(error, RemoteRejectedError) and error.code in named:
        return error_of(named[error.code], str(error))
    return error
