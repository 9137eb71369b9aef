from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AnalyzeRequest(_message.Message):
    __slots__ = ("request_id", "bitstream", "tasks", "top_k", "camera")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    BITSTREAM_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    CAMERA_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    bitstream: bytes
    tasks: _containers.RepeatedCompositeFieldContainer[TaskQuery]
    top_k: int
    camera: str
    def __init__(self, request_id: _Optional[str] = ..., bitstream: _Optional[bytes] = ..., tasks: _Optional[_Iterable[_Union[TaskQuery, _Mapping]]] = ..., top_k: _Optional[int] = ..., camera: _Optional[str] = ...) -> None: ...

class TaskQuery(_message.Message):
    __slots__ = ("name", "top_k")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    name: str
    top_k: int
    def __init__(self, name: _Optional[str] = ..., top_k: _Optional[int] = ...) -> None: ...

class AnalyzeResponse(_message.Message):
    __slots__ = ("request_id", "bundle", "fingerprint", "quality", "results", "bytes", "times")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    QUALITY_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    TIMES_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    bundle: str
    fingerprint: str
    quality: int
    results: _containers.RepeatedCompositeFieldContainer[TaskResult]
    bytes: ByteCount
    times: Times
    def __init__(self, request_id: _Optional[str] = ..., bundle: _Optional[str] = ..., fingerprint: _Optional[str] = ..., quality: _Optional[int] = ..., results: _Optional[_Iterable[_Union[TaskResult, _Mapping]]] = ..., bytes: _Optional[_Union[ByteCount, _Mapping]] = ..., times: _Optional[_Union[Times, _Mapping]] = ...) -> None: ...

class TaskResult(_message.Message):
    __slots__ = ("task", "classification")
    TASK_FIELD_NUMBER: _ClassVar[int]
    CLASSIFICATION_FIELD_NUMBER: _ClassVar[int]
    task: str
    classification: Classification
    def __init__(self, task: _Optional[str] = ..., classification: _Optional[_Union[Classification, _Mapping]] = ...) -> None: ...

class Classification(_message.Message):
    __slots__ = ("top",)
    TOP_FIELD_NUMBER: _ClassVar[int]
    top: _containers.RepeatedCompositeFieldContainer[ClassScore]
    def __init__(self, top: _Optional[_Iterable[_Union[ClassScore, _Mapping]]] = ...) -> None: ...

class ClassScore(_message.Message):
    __slots__ = ("label", "index", "score")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    label: str
    index: int
    score: float
    def __init__(self, label: _Optional[str] = ..., index: _Optional[int] = ..., score: _Optional[float] = ...) -> None: ...

class ByteCount(_message.Message):
    __slots__ = ("b_v", "b_z", "total", "bits_per_pixel")
    B_V_FIELD_NUMBER: _ClassVar[int]
    B_Z_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    BITS_PER_PIXEL_FIELD_NUMBER: _ClassVar[int]
    b_v: int
    b_z: int
    total: int
    bits_per_pixel: float
    def __init__(self, b_v: _Optional[int] = ..., b_z: _Optional[int] = ..., total: _Optional[int] = ..., bits_per_pixel: _Optional[float] = ...) -> None: ...

class Times(_message.Message):
    __slots__ = ("queue_ms", "decode_ms", "tails_ms")
    QUEUE_MS_FIELD_NUMBER: _ClassVar[int]
    DECODE_MS_FIELD_NUMBER: _ClassVar[int]
    TAILS_MS_FIELD_NUMBER: _ClassVar[int]
    queue_ms: float
    decode_ms: float
    tails_ms: float
    def __init__(self, queue_ms: _Optional[float] = ..., decode_ms: _Optional[float] = ..., tails_ms: _Optional[float] = ...) -> None: ...

class AnalyzeStreamResponse(_message.Message):
    __slots__ = ("request_id", "answer", "error")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    answer: AnalyzeResponse
    error: ErrorStatus
    def __init__(self, request_id: _Optional[str] = ..., answer: _Optional[_Union[AnalyzeResponse, _Mapping]] = ..., error: _Optional[_Union[ErrorStatus, _Mapping]] = ...) -> None: ...

class ErrorStatus(_message.Message):
    __slots__ = ("code", "text")
    CODE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    code: int
    text: str
    def __init__(self, code: _Optional[int] = ..., text: _Optional[str] = ...) -> None: ...

class DescribeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DescribeResponse(_message.Message):
    __slots__ = ("bundles",)
    BUNDLES_FIELD_NUMBER: _ClassVar[int]
    bundles: _containers.RepeatedCompositeFieldContainer[Bundle]
    def __init__(self, bundles: _Optional[_Iterable[_Union[Bundle, _Mapping]]] = ...) -> None: ...

class Bundle(_message.Message):
    __slots__ = ("name", "fingerprint", "qualities", "tasks")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    QUALITIES_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    name: str
    fingerprint: str
    qualities: _containers.RepeatedScalarFieldContainer[int]
    tasks: _containers.RepeatedCompositeFieldContainer[Task]
    def __init__(self, name: _Optional[str] = ..., fingerprint: _Optional[str] = ..., qualities: _Optional[_Iterable[int]] = ..., tasks: _Optional[_Iterable[_Union[Task, _Mapping]]] = ...) -> None: ...

class Task(_message.Message):
    __slots__ = ("name", "kind", "labels")
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    name: str
    kind: str
    labels: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[str] = ..., labels: _Optional[_Iterable[str]] = ...) -> None: ...
