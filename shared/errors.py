"""Every error that Isthmus raises on purpose, and the one table that says how each leaves the process.

Knows no transport library: gRPC codes stand here by name, HTTP statuses by number. A message names what was wrong
and what to do; it is shown to users as it is, on one line.

    IsthmusError
      RequestError              a request that does not make sense
        UnknownTaskError
        UnknownBundleError      no bundle of that fingerprint is served
        UnknownCameraError      no session of that camera is open
        FrameGoneError          the frame that is wanted is no longer there
        NotFoundError           a camera, a record or a replay that is named and is not there
        PayloadTooLargeError
        UnauthorizedError       no token, or a wrong one
        PermissionDeniedError   a known caller who may not do this
      ImageError                the input image
        NotAnImageError
        ImageTooLargeError
      BitstreamError            bytes that are no valid Isthmus stream
        NotABitstreamError        wrong first byte
        UnsupportedVersionError
        MalformedHeaderError      a number in it that no writer writes
        TruncatedError
        TrailingBytesError
        ChecksumError
        StreamTooLargeError       sizes beyond the limits
        CorruptPayloadError       the container is sound, its payload is not
        MissingReferenceError     a frame that needs another one, which is not there
      BundleMismatchError       a valid stream that was made with another bundle
      BundleError               the bundle on disk
        BundleNotFoundError
        BundleDamagedError
        BundleUnsignedError     not signed, or not by the key that is trusted here
      DataError                 data sets, checkpoints, recipes
      OverloadedError           a limit on requests, bodies, streams or the queue is reached (HTTP 429)
      NotReadyError             the server is still loading
      RemoteError               the other side
        CloudUnreachableError
        DeadlineError
        RemoteRejectedError       carries the remote's code and text
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace


class IsthmusError(Exception):
    """Base of all errors that are shown to a user.

    setting: name of the setting that the error is about, as its owner spells it ("holdout", "network.stride"). Code
    below the command line knows no flags: the command line adds the one that stands for the setting
    (`shared.process.commands`), or the place in a file that gave it.
    """

    def __init__(self, text: str = "", *, setting: str | None = None) -> None:
        super().__init__(text)
        self.setting = setting


class Interruption(KeyboardInterrupt):
    """A command stopped in good order at Ctrl-C or SIGTERM; the text says what is kept.

    No IsthmusError, so that nothing takes it for the failure of one item among several. setting: the one by which the
    command goes on. status: what a shell reports for the signal, 128 + its number.
    """

    def __init__(self, text: str, signal_number: int, *, setting: str | None = None) -> None:
        super().__init__(text)
        self.status, self.setting = 128 + signal_number, setting


class RequestError(IsthmusError): ...


class UnknownTaskError(RequestError):
    def __init__(self, task: str, known: list[str]) -> None:
        super().__init__(f"unknown task {task!r}; this bundle answers: {', '.join(known)}")


class UnknownBundleError(RequestError):
    def __init__(self, fingerprint: str, known: list[str]) -> None:
        listed = ", ".join(known) or "none"
        super().__init__(f"no bundle with the fingerprint {fingerprint} is served; there are: {listed}")


class UnknownCameraError(RequestError):
    def __init__(self, camera: str) -> None:
        super().__init__(f"no session of a camera {camera!r} is open here")


class FrameGoneError(RequestError): ...


class NotFoundError(RequestError): ...


class PayloadTooLargeError(RequestError): ...


class UnauthorizedError(RequestError): ...


class PermissionDeniedError(RequestError): ...


class ImageError(IsthmusError): ...


class NotAnImageError(ImageError): ...


class ImageTooLargeError(ImageError): ...


class BitstreamError(IsthmusError): ...


class NotABitstreamError(BitstreamError): ...


class UnsupportedVersionError(BitstreamError): ...


class MalformedHeaderError(BitstreamError): ...


class TruncatedError(BitstreamError): ...


class TrailingBytesError(BitstreamError): ...


class ChecksumError(BitstreamError): ...


class StreamTooLargeError(BitstreamError): ...


class CorruptPayloadError(BitstreamError): ...


class MissingReferenceError(BitstreamError): ...


class BundleMismatchError(IsthmusError):
    """The stream was made with another bundle.

    stream: fingerprint in the stream, hex. bundle: fingerprint of the loaded bundle, hex.
    """

    def __init__(self, stream: str, bundle: str) -> None:
        self.stream, self.bundle = stream, bundle
        super().__init__(
            f"the bitstream was made with bundle {stream}, but bundle {bundle} is loaded; "
            "load the bundle that the edge uses"
        )


class BundleError(IsthmusError): ...


class BundleNotFoundError(BundleError): ...


class BundleDamagedError(BundleError): ...


class BundleUnsignedError(BundleError): ...


class DataError(IsthmusError): ...


class OverloadedError(IsthmusError):
    """A limit is reached. retry_after_s: when it has room again, where that is known."""

    def __init__(self, text: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(text)
        self.retry_after_s = retry_after_s


class NotReadyError(IsthmusError): ...


class RemoteError(IsthmusError): ...


class CloudUnreachableError(RemoteError): ...


class DeadlineError(RemoteError): ...


class RemoteRejectedError(RemoteError):
    """The remote answered with an error. code: gRPC code name, e.g. "FAILED_PRECONDITION"."""

    def __init__(self, code: str, text: str) -> None:
        self.code = code
        super().__init__(text)


@dataclass(frozen=True)
class Exit:
    """How an error leaves the process: over gRPC, over HTTP, and as a command's exit status."""

    grpc: str
    http: int
    title: str
    status: int = 2
    retry_after_s: int | None = None


# The most specific class on an error's MRO counts.
EXITS: dict[type[Exception], Exit] = {
    RequestError: Exit("INVALID_ARGUMENT", 422, "Invalid request"),
    UnknownTaskError: Exit("NOT_FOUND", 404, "Unknown task"),
    UnknownBundleError: Exit("NOT_FOUND", 404, "Unknown bundle"),
    UnknownCameraError: Exit("NOT_FOUND", 404, "Unknown camera"),
    FrameGoneError: Exit("ABORTED", 409, "Frame no longer there"),
    NotFoundError: Exit("NOT_FOUND", 404, "Not found"),
    PayloadTooLargeError: Exit("RESOURCE_EXHAUSTED", 413, "Request too large"),
    UnauthorizedError: Exit("UNAUTHENTICATED", 401, "Unauthorized"),
    PermissionDeniedError: Exit("PERMISSION_DENIED", 403, "Permission denied"),
    ImageError: Exit("INVALID_ARGUMENT", 400, "Unreadable image"),
    NotAnImageError: Exit("INVALID_ARGUMENT", 415, "Not an image"),
    ImageTooLargeError: Exit("INVALID_ARGUMENT", 413, "Image too large"),
    BitstreamError: Exit("INVALID_ARGUMENT", 400, "Invalid bitstream"),
    StreamTooLargeError: Exit("INVALID_ARGUMENT", 413, "Bitstream too large"),
    MissingReferenceError: Exit("FAILED_PRECONDITION", 409, "Reference missing"),
    BundleMismatchError: Exit("FAILED_PRECONDITION", 409, "Bitstream of another bundle"),
    BundleError: Exit("FAILED_PRECONDITION", 500, "Unusable bundle"),
    DataError: Exit("INVALID_ARGUMENT", 400, "Unusable data"),
    OverloadedError: Exit("RESOURCE_EXHAUSTED", 429, "Too many requests", status=1, retry_after_s=1),
    NotReadyError: Exit("UNAVAILABLE", 503, "Not ready", status=1, retry_after_s=2),
    RemoteError: Exit("UNAVAILABLE", 502, "Cloud error", status=1),
    CloudUnreachableError: Exit("UNAVAILABLE", 503, "Cloud unreachable", status=1, retry_after_s=5),
    DeadlineError: Exit("DEADLINE_EXCEEDED", 504, "Deadline exceeded", status=1),
    IsthmusError: Exit("INTERNAL", 500, "Internal error", status=1),
}

INTERNAL = EXITS[IsthmusError]

# What the cloud refused leaves an edge with the status that the cloud itself would have given.
REJECTED: dict[str, Exit] = {
    "INVALID_ARGUMENT": Exit("INVALID_ARGUMENT", 422, "Refused by the cloud", status=1),
    "UNAUTHENTICATED": Exit("UNAUTHENTICATED", 401, "Not authenticated to the cloud", status=1),
    "PERMISSION_DENIED": Exit("PERMISSION_DENIED", 403, "Not permitted by the cloud", status=1),
    "NOT_FOUND": Exit("NOT_FOUND", 404, "Unknown to the cloud", status=1),
    "FAILED_PRECONDITION": Exit("FAILED_PRECONDITION", 409, "Cloud has another bundle", status=1),
}


def exit_of(error: BaseException) -> Exit:
    """The way out for an error; one that Isthmus did not raise on purpose is internal."""
    if isinstance(error, RemoteRejectedError) and error.code in REJECTED:
        return REJECTED[error.code]
    if isinstance(error, OverloadedError) and getattr(error, "retry_after_s", None) is not None:
        return replace(EXITS[OverloadedError], retry_after_s=max(1, math.ceil(error.retry_after_s or 0)))
    for kind in type(error).__mro__:
        if kind in EXITS:
            return EXITS[kind]
    return INTERNAL
