"""Random calls of every gRPC method of a cloud: noise, random messages of the right type, and damaged ones.

    python -m support.fuzz_grpc ADDRESS --count 500 [--seed 0] --stream FILE [--token TOKEN]

Prints a JSON object: how often each method ended with which status. FILE: a bitstream, used as it is and damaged.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from shared.wire import analyzer_pb2 as pb

CALL_S = 20.0
FILES = (pb, health_pb2, reflection_pb2)
INTEGERS = (0, 1, 2, 7, 100, 255, 1 << 16, 1 << 31, (1 << 32) - 1, (1 << 63) - 1, -1, -(1 << 31), -(1 << 63))
TEXTS = (
    "",
    "classification",
    "normals",
    "rooms",
    "door-1",
    "\0",
    "x" * 200,
    "a\nb",
    "é",
    "../..",
    "*",
    "0" * 32,
)


def methods() -> list[MethodDescriptor]:
    services = (one for file in FILES for one in file.DESCRIPTOR.services_by_name.values())
    return [method for service in services for method in service.methods]


class Messages:
    """Random messages. stream: a bitstream that some of them hold, whole or damaged."""

    def __init__(self, rng: random.Random, stream: bytes) -> None:
        self._rng, self._stream = rng, stream

    def call(self, method: MethodDescriptor) -> Iterator[bytes]:
        """The messages of one call, as bytes."""
        for _ in range(self._rng.choice((0, 1, 1, 1, 2, 5)) if method.client_streaming else 1):
            yield self._one(method.input_type)

    def _one(self, kind: Descriptor) -> bytes:
        if self._rng.random() < 0.15:
            return self._rng.randbytes(self._rng.choice((0, 1, 5, 60, 3000)))
        message = GetMessageClass(kind)()
        if self._rng.random() < 0.3:  # as an edge sends it, where it has a bitstream
            for field in message.DESCRIPTOR.fields:
                if field.type == FieldDescriptor.TYPE_BYTES:
                    setattr(message, field.name, self._stream)
            return bytes(message.SerializeToString())
        self._fill(message, 0)
        data: bytes = message.SerializeToString()
        return self._damaged(data) if self._rng.random() < 0.25 else data

    def _fill(self, message: Any, depth: int) -> None:
        for field in message.DESCRIPTOR.fields:
            if self._rng.random() < 0.35 or depth > 3:
                continue
            if field.is_repeated:
                for _ in range(self._rng.choice((1, 1, 2, 40))):
                    self._add(message, field, depth)
            elif field.message_type is not None:
                part = getattr(message, field.name)
                part.SetInParent()
                self._fill(part, depth + 1)
            else:
                self._set(message, field)

    def _add(self, message: Any, field: FieldDescriptor, depth: int) -> None:
        if field.message_type is None:
            getattr(message, field.name).append(self._value(field))
        elif not field.message_type.GetOptions().map_entry:
            self._fill(getattr(message, field.name).add(), depth + 1)

    def _set(self, message: Any, field: FieldDescriptor) -> None:
        try:
            setattr(message, field.name, self._value(field))
        except ValueError:  # an integer that the field's type does not hold
            setattr(message, field.name, self._rng.randrange(100))

    def _value(self, field: FieldDescriptor) -> Any:
        rng = self._rng
        if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
            if field.type == FieldDescriptor.TYPE_BYTES:
                choices = (self._stream, self._damaged(self._stream), rng.randbytes(16), b"", b"\xb8" * 9)
                return rng.choice(choices)
            return rng.choice(TEXTS)
        if field.cpp_type in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
            return rng.choice((0.0, -1.0, 1e38, float("inf"), float("nan"), 0.5))
        if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
            return rng.random() < 0.5
        if field.enum_type is not None:
            return rng.choice([value.number for value in field.enum_type.values] + [99])
        return rng.choice(INTEGERS)

    def _damaged(self, data: bytes) -> bytes:
        changed = bytearray(data or b"\0")
        for _ in range(self._rng.choice((1, 1, 3))):
            changed[self._rng.randrange(len(changed))] ^= 1 << self._rng.randrange(8)
        cut = self._rng.randrange(len(changed)) if self._rng.random() < 0.2 else len(changed)
        return bytes(changed[:cut])


def status_of(channel: grpc.Channel, method: MethodDescriptor, messages: list[bytes], token: str) -> str:
    """How a call ends. One that goes on for ever, as a watch of health, is "OK" with its first answer."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    endless = method.name == "Watch"
    open_call = channel.stream_stream(path, lambda sent: sent, lambda got: got)
    call = open_call(iter(messages), timeout=CALL_S, metadata=(("authorization", f"Bearer {token}"),))
    try:
        for _ in call:
            if endless:
                call.cancel()
                return "OK"
    except grpc.RpcError as error:
        code = error.code()  # type: ignore[attr-defined]
        return f"{code.name}: {error.details()}" if code.name in ("UNKNOWN", "INTERNAL") else str(code.name)  # type: ignore[attr-defined]
    return "OK"


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stream", type=Path, required=True)
    parser.add_argument("--token", default="")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    made, known = Messages(rng, options.stream.read_bytes()), methods()
    ends: Counter[str] = Counter()
    with grpc.insecure_channel(options.address) as channel:
        for number in range(options.count):
            method = known[number % len(known)]
            messages = list(made.call(method))
            if method.client_streaming is False and not messages:
                messages = [b""]
            end = status_of(channel, method, messages, options.token)
            ends[f"{method.name} {end}"] += 1
            if end.startswith(("UNKNOWN", "INTERNAL")):
                print(method.name, [one.hex() for one in messages], file=sys.stderr)
    print(json.dumps(dict(sorted(ends.items()))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
