"""Who may call each gRPC method: one table, decided by `shared.process.auth`. A method that is not in it is closed."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import grpc
import grpc.aio

from cloud.faces.grpc_connections import GrpcConnections
from cloud.faces.grpc_guard import Context, Continuation, PerMethod, abort, behaviour_name
from shared.errors import (
    DeadlineError,
    IsthmusError,
    PermissionDeniedError,
    RequestError,
    UnauthorizedError,
)
from shared.process.access import ANY, PUBLIC, Access, access
from shared.process.auth import Caller, Credentials, Gate, set_caller
from shared.process.rates import Places
from shared.process.sockets import CONNECTIONS_MAX

_SERVICE = "/isthmus.v1.Analyzer/"
_HEALTH = "/grpc.health.v1.Health/"
_HEADER = "authorization"
REPEAT_HEADER = "x-request-id"  # names a request that is sent again; over HTTP any request
_CERTIFICATE_NAMES = ("x509_subject_alternative_name", "x509_common_name")

CameraOf = Callable[[Any], "str | None"]


@dataclass(frozen=True)
class MethodAccess:
    """camera: the camera that a message is about; None where this message names none. queued: waits for a batch, and
    is refused before its message is read where there is no room for it."""

    needed: Access
    camera: CameraOf | None = None
    queued: bool = False


def _own(message: Any) -> str | None:
    camera: str | None = getattr(
        message, "camera", None
    )  # what could not be read has none, and is refused later
    return camera


def _if_named(message: Any) -> str | None:
    """Whoever names no camera asks about none."""
    return _own(message) or None


def _of_open(message: Any) -> str | None:
    """A session names its camera in its first message."""
    opened = hasattr(message, "WhichOneof") and message.WhichOneof("message") == "open"
    return message.open.camera if opened else None


METHODS: dict[str, MethodAccess] = {
    f"{_SERVICE}Analyze": MethodAccess(access("analyze"), _own, queued=True),
    f"{_SERVICE}AnalyzeStream": MethodAccess(access("analyze"), _own),
    f"{_SERVICE}AnalyzeSession": MethodAccess(access("analyze"), _of_open),
    f"{_SERVICE}Refine": MethodAccess(access("analyze"), _own),
    f"{_SERVICE}Describe": MethodAccess(access("analyze", "admin"), _if_named),
    f"{_HEALTH}Check": MethodAccess(PUBLIC),
    f"{_HEALTH}List": MethodAccess(ANY),  # the library has the method and no code for it
    f"{_HEALTH}Watch": MethodAccess(PUBLIC),
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": MethodAccess(ANY),
}


class AccessInterceptor(grpc.aio.ServerInterceptor):
    """Lets a call through to its method as the gate decides. Sets `caller()` and holds the caller's rates.

    A caller is admitted before any message is read, and a method that takes one message waits `message_s` for it: so
    strangers hold none of the server's calls, and callers divide `calls_max` among them. Of a stream each message is
    checked: one whose token is revoked meanwhile ends it. Messages of a stream that are beyond a rate are read later,
    not refused.
    """

    def __init__(
        self,
        gate: Gate,
        message_s: float = 10.0,
        methods: Mapping[str, MethodAccess] | None = None,
        calls_max: int = 128,
        connections: GrpcConnections | None = None,
        check_room: Callable[[str], None] = lambda _: None,
    ) -> None:
        """check_room: raises where the queue would refuse the running caller; gets the request id of a repeat."""
        self._gate, self._message_s, self._places = gate, message_s, Places(calls_max)
        self._connections = connections or GrpcConnections(CONNECTIONS_MAX)
        self._check_room = check_room
        self._methods = METHODS if methods is None else methods
        self._handlers = PerMethod(self._wrapped)

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        return self._handlers.of(handler, str(handler_call_details.method))

    def _wrapped(self, handler: Any, method: str) -> Any:
        name = behaviour_name(handler)
        guarded = self._guarded(getattr(handler, name), method, handler.request_streaming)
        # gRPC reads the message of a unary call before it calls anybody; of a stream it reads none.
        streaming = name.replace("unary_", "stream_", 1)
        return handler._replace(**{"request_streaming": True, name: None, streaming: guarded})

    def _guarded(
        self, behaviour: Callable[..., Any], name: str, request_streaming: bool
    ) -> Callable[..., Any]:
        async def prepared(requests: AsyncIterator[Any], context: Context, held: ExitStack) -> Any:
            """What the method is called with, once the caller is admitted. Ends the call where nobody is.

            held: gets the caller's places: of its connection, and of calls, except for streams, which are bounded by
            themselves.
            """
            method = self._methods.get(name)
            try:
                admitted = await self._admit(context, method)
                who = ("", 1.0) if admitted is None else (admitted.identity.name, admitted.identity.weight)
                held.enter_context(self._connections.used(*who, context.peer()))
                if admitted is not None and not request_streaming:
                    held.enter_context(self._places.held(*who))
                if method is not None and method.queued:
                    self._check_room(_repeat_of(context))
                camera_of = method.camera if method else None
                if request_streaming:
                    return requests if admitted is None else _each(requests, admitted, camera_of)
                request = await self._one(requests)
                if admitted is not None:
                    _check_camera(request, admitted, camera_of)
                    admitted.charge(1, _size(request))
                return request
            except IsthmusError as error:
                await abort(context, error)

        async def answers(requests: Any, context: Context) -> AsyncIterator[Any]:
            with ExitStack() as held:
                async for answer in behaviour(await prepared(requests, context, held), context):
                    yield answer

        async def answer(requests: Any, context: Context) -> Any:
            with ExitStack() as held:
                return await behaviour(await prepared(requests, context, held), context)

        # grpc.aio distinguishes the two in the same way.
        return answers if inspect.isasyncgenfunction(behaviour) else answer

    async def _admit(self, context: Context, method: MethodAccess | None) -> Caller | None:
        """None where everybody may call. Raises what `Gate.admit` raises."""
        if method is not None and method.needed.is_public:
            return None
        admitted = await self._gate.admit(credentials_of(context), method.needed if method else ANY)
        if method is None:
            raise PermissionDeniedError("this call is closed: no scope opens it")
        set_caller(admitted)
        return admitted

    async def _one(self, requests: AsyncIterator[Any]) -> Any:
        """The message of a call that takes one. Raises RequestError without one, DeadlineError where it is late."""
        try:
            async with asyncio.timeout(self._message_s):
                return await anext(requests)
        except StopAsyncIteration:
            raise RequestError("the call has no message") from None
        except TimeoutError:
            raise DeadlineError(f"the call's message did not come within {self._message_s:g} s") from None


async def _each(
    requests: AsyncIterator[Any], admitted: Caller, camera_of: CameraOf | None
) -> AsyncIterator[Any]:
    """The messages of a stream. Raises UnauthorizedError, PermissionDeniedError or NotReadyError."""
    async for request in requests:
        admitted.check()
        _check_camera(request, admitted, camera_of)
        await admitted.wait(1, _size(request))
        yield request


def _check_camera(request: Any, admitted: Caller, camera_of: CameraOf | None) -> None:
    camera = camera_of(request) if camera_of else None
    if camera is not None:
        admitted.check_camera(camera)


def _size(request: Any) -> int:
    """Bytes of a message; 0 for what could not be read."""
    return int(request.ByteSize()) if hasattr(request, "ByteSize") else 0


def credentials_of(context: Context) -> Credentials:
    """Raises UnauthorizedError for metadata that hold no bearer token."""
    given = [value for key, value in context.invocation_metadata() or () if key == _HEADER]
    token = None
    if given:
        kind, _, token = str(given[0]).partition(" ")
        token = token.strip()
        if len(given) > 1 or kind.lower() != "bearer" or not token:
            raise UnauthorizedError("the metadata hold `authorization` once, as: Bearer TOKEN")
    return Credentials(token, _certificate(context), _address_of(context.peer()))


def _repeat_of(context: Context) -> str:
    """The id that a call's metadata name for a request that was sent before; empty where there is none."""
    return next((str(v) for key, v in context.invocation_metadata() or () if key == REPEAT_HEADER), "")


def _certificate(context: Context) -> tuple[str, ...] | None:
    """The names of the client's certificate, alternative ones first; None where it sent none."""
    found = context.auth_context()
    if not found.get("x509_pem_cert"):
        return None
    values = [value for key in _CERTIFICATE_NAMES for value in found.get(key, ())]
    return tuple(dict.fromkeys(value.decode("utf-8", "replace") for value in values))


def _address_of(peer: str) -> str:
    """ "ipv4:127.0.0.1:5000" -> "127.0.0.1"; "ipv6:%5B::1%5D:5000" -> "::1"."""
    kind, _, rest = unquote(peer).partition(":")
    if kind not in ("ipv4", "ipv6"):
        return peer
    return rest.rpartition(":")[0].strip("[]")
