"""The contract: the committed stubs are those of the .proto, and packets survive the way there and back."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf import descriptor_pb2
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from shared.errors import (
    EXITS,
    BundleMismatchError,
    ChecksumError,
    DeadlineError,
    NotReadyError,
    OverloadedError,
    PermissionDeniedError,
    RemoteError,
    RequestError,
    UnauthorizedError,
    UnknownTaskError,
)
from shared.kinds import KINDS
from shared.kinds.classification import ClassificationResult, ClassScore
from shared.kinds.depth import DepthResult
from shared.kinds.embedding import EmbeddingResult
from shared.kinds.multilabel import MultilabelResult
from shared.kinds.normals import Facing, NormalsResult
from shared.kinds.segmentation import ClassArea, SegmentationResult, classes_array, classes_png
from shared.maps import MapArray, MapPng
from shared.types import Analysis, ByteCount, TaskQuery, Times, Wanted
from shared.wire import analyzer_pb2 as pb
from shared.wire import convert

ROOT = Path(__file__).parents[3]


def compiled(tmp_path: Path, text: str) -> descriptor_pb2.FileDescriptorProto:
    file = tmp_path / "isthmus" / "v1" / "analyzer.proto"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    out = tmp_path / "set.bin"
    command = [
        sys.executable,
        "-m",
        "grpc_tools.protoc",
        f"-I{tmp_path}",
        f"--descriptor_set_out={out}",
    ]
    subprocess.run([*command, str(file)], check=True, timeout=60)
    [found] = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file
    for message in found.message_type:
        for field in message.field:
            field.ClearField("json_name")  # protoc writes it into sets, and not into stubs
    return found


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
    captured_at=datetime(2026, 11, 22, 13, 0, 0, 1, tzinfo=UTC),
    warnings=("the image file is cut off", "é"),
)


def test_an_analysis_survives_the_wire() -> None:
    message = pb.AnalyzeResponse.FromString(convert.response_message(ANALYSIS).SerializeToString())
    back = convert.analysis_of(message)
    assert back == ANALYSIS
    assert list(back.results) == ["second", "first"]


def test_an_analysis_without_time_and_warnings_survives_the_wire() -> None:
    bare = ANALYSIS.model_copy(update={"captured_at": None, "warnings": ()})
    message = convert.response_message(bare)
    assert message.captured_at == 0
    assert convert.analysis_of(message) == bare


def test_json_holds_the_capture_time_as_rfc_3339_in_utc() -> None:
    zone = timezone(timedelta(hours=2))
    there = Analysis.model_validate(
        ANALYSIS.model_dump() | {"captured_at": datetime(2026, 11, 22, 15, tzinfo=zone)}
    )
    assert json.loads(there.model_dump_json())["captured_at"] == "2026-11-22T13:00:00Z"
    assert json.loads(there.model_dump_json())["warnings"] == list(ANALYSIS.warnings)
    with pytest.raises(ValidationError, match="timezone"):
        Analysis.model_validate(ANALYSIS.model_dump() | {"captured_at": datetime(2026, 11, 22)})


SHARE = st.floats(0, 1)
ARRAY = st.builds(
    MapArray,
    dtype=st.sampled_from(["int8", "uint8", "float32"]),
    shape=st.lists(st.integers(1, 4096), min_size=2, max_size=3).map(tuple),
    data=st.binary(max_size=50),
)
MAP = st.none() | st.binary(max_size=50).map(MapPng.of) | ARRAY
INDEX = st.integers(0, 2**32 - 1)
SCORES = st.lists(st.builds(ClassScore, label=st.text(max_size=9), index=INDEX, score=SHARE)).map(tuple)
METRES = st.floats(0, allow_nan=False, allow_infinity=False)
BY_KIND = {
    "classification": st.builds(ClassificationResult, top=SCORES),
    "multilabel": st.builds(MultilabelResult, top=SCORES),
    "depth": st.builds(DepthResult, min_m=METRES, median_m=METRES, max_m=METRES, known=SHARE, map=MAP),
    "embedding": st.builds(
        EmbeddingResult,
        normalised=st.booleans(),
        vector=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1).map(tuple),
    ),
    "normals": st.builds(
        NormalsResult,
        mean=st.tuples(*[st.floats(-1, 1)] * 3),
        facing=st.builds(Facing, **dict.fromkeys(Facing.model_fields, SHARE)),
        map=MAP,
    ),
    "segmentation": st.builds(
        SegmentationResult,
        areas=st.lists(st.builds(ClassArea, label=st.text(max_size=9), index=INDEX, share=SHARE)).map(tuple),
        map=MAP,
    ),
}
RESULT = st.one_of(BY_KIND.values())


def test_every_kind_is_tried_here() -> None:
    assert BY_KIND.keys() == KINDS.keys()


@given(st.dictionaries(st.text(max_size=9), RESULT, max_size=4))
def test_results_of_every_kind_survive_the_wire(results: dict[str, Any]) -> None:
    sent = ANALYSIS.model_copy(update={"results": results})
    message = pb.AnalyzeResponse.FromString(convert.response_message(sent).SerializeToString())
    back = convert.analysis_of(message)
    assert back == sent
    assert list(back.results) == list(results)


@given(st.dictionaries(st.text(max_size=9), RESULT, max_size=4))
def test_results_without_arrays_survive_json(results: dict[str, Any]) -> None:
    for name, result in results.items():
        if isinstance(getattr(result, "map", None), MapArray):
            results[name] = result.model_copy(update={"map": None})
    sent = ANALYSIS.model_copy(update={"results": results})
    assert Analysis.model_validate_json(sent.model_dump_json(exclude_none=True)) == sent


def test_a_request_survives_the_wire() -> None:
    wanted = Wanted(tasks=(TaskQuery(name="a", top_k=3), TaskQuery(name="b", top_k=100)), top_k=7)
    when = datetime(2026, 11, 22, 13, tzinfo=UTC)
    message = convert.request_message("id", b"\0\xff", wanted, "door-1", when)
    back = pb.AnalyzeRequest.FromString(message.SerializeToString())
    assert convert.wanted_of(back) == wanted
    assert (back.request_id, back.bitstream, back.camera) == ("id", b"\0\xff", "door-1")
    assert back.captured_at == 1_795_352_400_000_000
    bare = convert.request_message("id", b"", wanted)
    assert (bare.camera, bare.captured_at) == ("", 0)


def test_a_query_says_its_own_maps_or_takes_the_requests() -> None:
    tasks = (TaskQuery(name="a", maps="arrays"), TaskQuery(name="b", maps="none"))
    wanted = Wanted(tasks=tasks, maps="png")
    message = convert.request_message("id", b"", wanted)
    assert convert.wanted_of(message) == wanted
    message.tasks.add(name="c")
    assert [query.maps for query in convert.wanted_of(message).tasks] == ["arrays", "none", "png"]
    assert convert.wanted_of(pb.AnalyzeRequest(tasks=[pb.TaskQuery(name="a")])).tasks[0].maps == "none"
    for bad in (pb.AnalyzeRequest(maps=9), pb.AnalyzeRequest(tasks=[pb.TaskQuery(name="a", maps=9)])):
        with pytest.raises(RequestError, match="maps: 9"):
            convert.wanted_of(bad)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda array: array.shape.append(5000),
        lambda array: array.ClearField("shape"),
        lambda array: setattr(array, "dtype", "object"),
        lambda array: setattr(array, "compression", "lzma"),
    ],
)
def test_a_map_that_is_none_is_a_remote_error(spoil: Callable[[pb.ArrayMap], None]) -> None:
    result = SegmentationResult(areas=(), map=classes_array(np.zeros((2, 3))))
    message = convert.response_message(ANALYSIS.model_copy(update={"results": {"a": result}}))
    spoil(message.results[0].segmentation.map.array)
    with pytest.raises(RemoteError, match="cannot be read"):
        convert.analysis_of(message)


def test_a_share_beyond_the_whole_is_a_remote_error() -> None:
    message = convert.response_message(
        ANALYSIS.model_copy(
            update={"results": {"a": SegmentationResult(areas=(ClassArea(label="a", index=0, share=1),))}}
        )
    )
    message.results[0].segmentation.areas[0].share = float("nan")
    with pytest.raises(RemoteError, match="share"):
        convert.analysis_of(message)


def test_a_png_travels_as_its_bytes() -> None:
    png = classes_png(np.zeros((64, 64)), 2)
    result = SegmentationResult(areas=(), map=png)
    message = convert.response_message(ANALYSIS.model_copy(update={"results": {"a": result}}))
    assert message.results[0].segmentation.map.png == png.file()


def test_nonsense_from_a_cloud_is_a_remote_error() -> None:
    message = convert.response_message(ANALYSIS)
    message.quality = 1000
    with pytest.raises(RemoteError, match="quality"):
        convert.analysis_of(message)
    message = convert.response_message(ANALYSIS)
    message.captured_at = -1
    with pytest.raises(RemoteError, match="captured_at is -1"):
        convert.analysis_of(message)
    message = convert.response_message(ANALYSIS)
    message.results.add(task="smell")
    with pytest.raises(RemoteError, match=r"'smell'.*unknown here"):
        convert.analysis_of(message)
    message.results[-1].custom.kind = "smell"
    with pytest.raises(RemoteError, match=r"'smell'.*unknown here"):
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
        (UnauthorizedError("token"), "UNAUTHENTICATED", "token"),
        (PermissionDeniedError("not yours"), "PERMISSION_DENIED", "not yours"),
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


def test_a_long_text_is_cut_to_what_trailers_hold() -> None:
    assert len(convert.status_of(RequestError("x" * 10_000))[1]) <= 2_000
