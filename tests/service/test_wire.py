"""The contract: the committed stubs are those of the .proto, and packets survive the way there and back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from google.protobuf import descriptor_pb2

from shared.errors import (
    EXITS,
    BundleMismatchError,
    ChecksumError,
    CloudUnreachableError,
    DeadlineError,
    NotReadyError,
    OverloadedError,
    RemoteError,
    RemoteRejectedError,
    RequestError,
    UnknownTaskError,
)
from shared.types import Analysis, ByteCount, ClassificationResult, ClassScore, TaskQuery, Times, Wanted
from shared.wire import analyzer_pb2 as pb
from shared.wire import convert

ROOT = Path(__file__).parents[2]


def compiled(tmp_path: Path, text: str) -> descriptor_pb2.FileDescriptorProto:
    (tmp_path / "analyzer.proto").write_text(text)
    out = tmp_path / "set.bin"
    command = [
        sys.executable,
        "-m",
        "grpc_tools.protoc",
        f"-Ishared/wire={tmp_path}",
        f"--descriptor_set_out={out}",
    ]
    subprocess.run([*command, str(tmp_path / "analyzer.proto")], check=True, timeout=60)
    [file] = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file
    for message in file.message_type:
        for field in message.field:
            field.ClearField("json_name")  # protoc writes it into sets, and not into stubs
    return file


def test_the_stubs_are_those_of_the_proto(tmp_path: Path) -> None:
    text = (ROOT / "proto/isthmus/v1/analyzer.proto").read_text()
    ours = descriptor_pb2.FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(ours)
    assert compiled(tmp_path, text) == ours, "stubs and .proto differ; run `make proto`"
    assert compiled(tmp_path, text.replace("uint32 top_k = 4;", "uint32 top_k = 15;")) != ours


def test_the_typed_stub_names_every_method() -> None:
    typed = (ROOT / "shared/wire/analyzer_pb2_grpc.pyi").read_text()
    for method in pb.DESCRIPTOR.services_by_name["Analyzer"].methods:
        assert f"    {method.name}: Callable" in typed
        assert f"    def {method.name}(" in typed


ANALYSIS = Analysis(
    request_id="a",
    bundle="rooms",
    fingerprint="0123abcd",
    quality=50,
    results={
        "second": ClassificationResult(top=(ClassScore(label="kitchen", index=3, score=0.123456789012345),)),
        "first": ClassificationResult(top=()),
    },
    bytes=ByteCount(b_v=1, b_z=2, total=18, bits_per_pixel=0.25),
    times=Times(queue_ms=0.0, decode_ms=1.5),
)


def test_an_analysis_survives_the_wire() -> None:
    message = pb.AnalyzeResponse.FromString(convert.response_message(ANALYSIS).SerializeToString())
    back = convert.analysis_of(message)
    assert back == ANALYSIS
    assert list(back.results) == ["second", "first"]


def test_a_request_survives_the_wire() -> None:
    wanted = Wanted(tasks=(TaskQuery(name="a", top_k=3), TaskQuery(name="b", top_k=100)), top_k=7)
    message = convert.request_message("id", b"\0\xff", wanted, "door-1")
    back = pb.AnalyzeRequest.FromString(message.SerializeToString())
    assert convert.wanted_of(back) == wanted
    assert (back.request_id, back.bitstream, back.camera) == ("id", b"\0\xff", "door-1")
    assert convert.request_message("id", b"", wanted).camera == ""


def test_nonsense_from_a_cloud_is_a_remote_error() -> None:
    message = convert.response_message(ANALYSIS)
    message.quality = 1000
    with pytest.raises(RemoteError, match="quality"):
        convert.analysis_of(message)
    message = convert.response_message(ANALYSIS)
    message.results.add(task="depth")
    with pytest.raises(RemoteError, match=r"'depth'.*unknown here"):
        convert.analysis_of(message)
    with pytest.raises(RemoteError, match="kind"):
        convert.bundles_of(pb.DescribeResponse(bundles=[pb.Bundle(tasks=[pb.Task(name="a", kind="?")])]))


def test_every_error_has_a_status_that_grpc_knows() -> None:
    for exit_ in EXITS.values():
        assert grpc.StatusCode[exit_.grpc]


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (ChecksumError("crc"), "INVALID_ARGUMENT", "crc"),
        (RequestError("no"), "INVALID_ARGUMENT", "no"),
        (UnknownTaskError("x", ["a", "b"]), "NOT_FOUND", "a, b"),
        (BundleMismatchError("00", "11"), "FAILED_PRECONDITION", "00"),
        (OverloadedError("full"), "RESOURCE_EXHAUSTED", "full"),
        (NotReadyError("loading"), "UNAVAILABLE", "loading"),
        (DeadlineError("late"), "DEADLINE_EXCEEDED", "late"),
        (KeyError("secret"), "INTERNAL", "the server's log"),
    ],
)
def test_statuses(error: Exception, code: str, text: str) -> None:
    status, told = convert.status_of(error)
    assert status.name == code
    assert text in told
    assert "secret" not in told
    assert convert.error_message(error).code == status.value[0]


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, CloudUnreachableError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, DeadlineError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, OverloadedError),
        (grpc.StatusCode.NOT_FOUND, RemoteRejectedError),
        (grpc.StatusCode.INTERNAL, RemoteRejectedError),
    ],
)
def test_what_a_client_raises(code: grpc.StatusCode, kind: type[Exception]) -> None:
    error = convert.error_of(code, "text")
    assert type(error) is kind
    assert str(error) == "text"


def test_a_long_text_is_cut_to_what_trailers_hold() -> None:
    assert len(convert.status_of(RequestError("x" * 10_000))[1]) <= 2_000
