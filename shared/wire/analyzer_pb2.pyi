from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Maps(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MAPS_UNSPECIFIED: _ClassVar[Maps]
    MAPS_NONE: _ClassVar[Maps]
    MAPS_PNG: _ClassVar[Maps]
    MAPS_ARRAYS: _ClassVar[Maps]

class ReplyPolicy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REPLIES_ALL: _ClassVar[ReplyPolicy]
    REPLIES_CHANGES: _ClassVar[ReplyPolicy]
    REPLIES_NONE: _ClassVar[ReplyPolicy]

class Compression(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    COMPRESSION_NONE: _ClassVar[Compression]
    COMPRESSION_GZIP: _ClassVar[Compression]
    COMPRESSION_DEFLATE: _ClassVar[Compression]
MAPS_UNSPECIFIED: Maps
MAPS_NONE: Maps
MAPS_PNG: Maps
MAPS_ARRAYS: Maps
REPLIES_ALL: ReplyPolicy
REPLIES_CHANGES: ReplyPolicy
REPLIES_NONE: ReplyPolicy
COMPRESSION_NONE: Compression
COMPRESSION_GZIP: Compression
COMPRESSION_DEFLATE: Compression

class AnalyzeRequest(_message.Message):
    __slots__ = ("request_id", "bitstream", "tasks", "top_k", "camera", "maps", "captured_at")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    BITSTREAM_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    CAMERA_FIELD_NUMBER: _ClassVar[int]
    MAPS_FIELD_NUMBER: _ClassVar[int]
    CAPTURED_AT_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    bitstream: bytes
    tasks: _containers.RepeatedCompositeFieldContainer[TaskQuery]
    top_k: int
    camera: str
    maps: Maps
    captured_at: int
    def __init__(self, request_id: _Optional[str] = ..., bitstream: _Optional[bytes] = ..., tasks: _Optional[_Iterable[_Union[TaskQuery, _Mapping]]] = ..., top_k: _Optional[int] = ..., camera: _Optional[str] = ..., maps: _Optional[_Union[Maps, str]] = ..., captured_at: _Optional[int] = ...) -> None: ...

class TaskQuery(_message.Message):
    __slots__ = ("name", "top_k", "maps")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    MAPS_FIELD_NUMBER: _ClassVar[int]
    name: str
    top_k: int
    maps: Maps
    def __init__(self, name: _Optional[str] = ..., top_k: _Optional[int] = ..., maps: _Optional[_Union[Maps, str]] = ...) -> None: ...

class AnalyzeResponse(_message.Message):
    __slots__ = ("request_id", "bundle", "fingerprint", "quality", "results", "bytes", "times", "captured_at", "warnings")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    QUALITY_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    TIMES_FIELD_NUMBER: _ClassVar[int]
    CAPTURED_AT_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    bundle: str
    fingerprint: str
    quality: int
    results: _containers.RepeatedCompositeFieldContainer[TaskResult]
    bytes: ByteCount
    times: Times
    captured_at: int
    warnings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, request_id: _Optional[str] = ..., bundle: _Optional[str] = ..., fingerprint: _Optional[str] = ..., quality: _Optional[int] = ..., results: _Optional[_Iterable[_Union[TaskResult, _Mapping]]] = ..., bytes: _Optional[_Union[ByteCount, _Mapping]] = ..., times: _Optional[_Union[Times, _Mapping]] = ..., captured_at: _Optional[int] = ..., warnings: _Optional[_Iterable[str]] = ...) -> None: ...

class TaskResult(_message.Message):
    __slots__ = ("task", "classification", "normals", "segmentation", "depth", "embedding", "multilabel", "custom")
    TASK_FIELD_NUMBER: _ClassVar[int]
    CLASSIFICATION_FIELD_NUMBER: _ClassVar[int]
    NORMALS_FIELD_NUMBER: _ClassVar[int]
    SEGMENTATION_FIELD_NUMBER: _ClassVar[int]
    DEPTH_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    MULTILABEL_FIELD_NUMBER: _ClassVar[int]
    CUSTOM_FIELD_NUMBER: _ClassVar[int]
    task: str
    classification: Classification
    normals: Normals
    segmentation: Segmentation
    depth: Depth
    embedding: Embedding
    multilabel: Multilabel
    custom: Custom
    def __init__(self, task: _Optional[str] = ..., classification: _Optional[_Union[Classification, _Mapping]] = ..., normals: _Optional[_Union[Normals, _Mapping]] = ..., segmentation: _Optional[_Union[Segmentation, _Mapping]] = ..., depth: _Optional[_Union[Depth, _Mapping]] = ..., embedding: _Optional[_Union[Embedding, _Mapping]] = ..., multilabel: _Optional[_Union[Multilabel, _Mapping]] = ..., custom: _Optional[_Union[Custom, _Mapping]] = ...) -> None: ...

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

class Normals(_message.Message):
    __slots__ = ("mean", "facing", "map")
    MEAN_FIELD_NUMBER: _ClassVar[int]
    FACING_FIELD_NUMBER: _ClassVar[int]
    MAP_FIELD_NUMBER: _ClassVar[int]
    mean: Vector
    facing: Facing
    map: DenseMap
    def __init__(self, mean: _Optional[_Union[Vector, _Mapping]] = ..., facing: _Optional[_Union[Facing, _Mapping]] = ..., map: _Optional[_Union[DenseMap, _Mapping]] = ...) -> None: ...

class Vector(_message.Message):
    __slots__ = ("x", "y", "z")
    X_FIELD_NUMBER: _ClassVar[int]
    Y_FIELD_NUMBER: _ClassVar[int]
    Z_FIELD_NUMBER: _ClassVar[int]
    x: float
    y: float
    z: float
    def __init__(self, x: _Optional[float] = ..., y: _Optional[float] = ..., z: _Optional[float] = ...) -> None: ...

class Facing(_message.Message):
    __slots__ = ("left", "right", "up", "down", "towards", "away")
    LEFT_FIELD_NUMBER: _ClassVar[int]
    RIGHT_FIELD_NUMBER: _ClassVar[int]
    UP_FIELD_NUMBER: _ClassVar[int]
    DOWN_FIELD_NUMBER: _ClassVar[int]
    TOWARDS_FIELD_NUMBER: _ClassVar[int]
    AWAY_FIELD_NUMBER: _ClassVar[int]
    left: float
    right: float
    up: float
    down: float
    towards: float
    away: float
    def __init__(self, left: _Optional[float] = ..., right: _Optional[float] = ..., up: _Optional[float] = ..., down: _Optional[float] = ..., towards: _Optional[float] = ..., away: _Optional[float] = ...) -> None: ...

class Segmentation(_message.Message):
    __slots__ = ("areas", "map")
    AREAS_FIELD_NUMBER: _ClassVar[int]
    MAP_FIELD_NUMBER: _ClassVar[int]
    areas: _containers.RepeatedCompositeFieldContainer[ClassArea]
    map: DenseMap
    def __init__(self, areas: _Optional[_Iterable[_Union[ClassArea, _Mapping]]] = ..., map: _Optional[_Union[DenseMap, _Mapping]] = ...) -> None: ...

class ClassArea(_message.Message):
    __slots__ = ("label", "index", "share")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    label: str
    index: int
    share: float
    def __init__(self, label: _Optional[str] = ..., index: _Optional[int] = ..., share: _Optional[float] = ...) -> None: ...

class Depth(_message.Message):
    __slots__ = ("min_m", "median_m", "max_m", "known", "map")
    MIN_M_FIELD_NUMBER: _ClassVar[int]
    MEDIAN_M_FIELD_NUMBER: _ClassVar[int]
    MAX_M_FIELD_NUMBER: _ClassVar[int]
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    MAP_FIELD_NUMBER: _ClassVar[int]
    min_m: float
    median_m: float
    max_m: float
    known: float
    map: DenseMap
    def __init__(self, min_m: _Optional[float] = ..., median_m: _Optional[float] = ..., max_m: _Optional[float] = ..., known: _Optional[float] = ..., map: _Optional[_Union[DenseMap, _Mapping]] = ...) -> None: ...

class Embedding(_message.Message):
    __slots__ = ("vector", "normalised")
    VECTOR_FIELD_NUMBER: _ClassVar[int]
    NORMALISED_FIELD_NUMBER: _ClassVar[int]
    vector: bytes
    normalised: bool
    def __init__(self, vector: _Optional[bytes] = ..., normalised: _Optional[bool] = ...) -> None: ...

class Multilabel(_message.Message):
    __slots__ = ("top",)
    TOP_FIELD_NUMBER: _ClassVar[int]
    top: _containers.RepeatedCompositeFieldContainer[ClassScore]
    def __init__(self, top: _Optional[_Iterable[_Union[ClassScore, _Mapping]]] = ...) -> None: ...

class Custom(_message.Message):
    __slots__ = ("kind", "json")
    KIND_FIELD_NUMBER: _ClassVar[int]
    JSON_FIELD_NUMBER: _ClassVar[int]
    kind: str
    json: bytes
    def __init__(self, kind: _Optional[str] = ..., json: _Optional[bytes] = ...) -> None: ...

class DenseMap(_message.Message):
    __slots__ = ("png", "array")
    PNG_FIELD_NUMBER: _ClassVar[int]
    ARRAY_FIELD_NUMBER: _ClassVar[int]
    png: bytes
    array: ArrayMap
    def __init__(self, png: _Optional[bytes] = ..., array: _Optional[_Union[ArrayMap, _Mapping]] = ...) -> None: ...

class ArrayMap(_message.Message):
    __slots__ = ("dtype", "shape", "compression", "data")
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    COMPRESSION_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    dtype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    compression: str
    data: bytes
    def __init__(self, dtype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., compression: _Optional[str] = ..., data: _Optional[bytes] = ...) -> None: ...

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

class SessionRequest(_message.Message):
    __slots__ = ("open", "frame", "declined")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    DECLINED_FIELD_NUMBER: _ClassVar[int]
    open: SessionOpen
    frame: SessionFrame
    declined: RefineDeclined
    def __init__(self, open: _Optional[_Union[SessionOpen, _Mapping]] = ..., frame: _Optional[_Union[SessionFrame, _Mapping]] = ..., declined: _Optional[_Union[RefineDeclined, _Mapping]] = ...) -> None: ...

class SessionOpen(_message.Message):
    __slots__ = ("fingerprint", "session", "camera", "h", "w", "tasks", "top_k", "maps", "replies", "compression", "details", "answers_wait_ms")
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    CAMERA_FIELD_NUMBER: _ClassVar[int]
    H_FIELD_NUMBER: _ClassVar[int]
    W_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    MAPS_FIELD_NUMBER: _ClassVar[int]
    REPLIES_FIELD_NUMBER: _ClassVar[int]
    COMPRESSION_FIELD_NUMBER: _ClassVar[int]
    DETAILS_FIELD_NUMBER: _ClassVar[int]
    ANSWERS_WAIT_MS_FIELD_NUMBER: _ClassVar[int]
    fingerprint: bytes
    session: bytes
    camera: str
    h: int
    w: int
    tasks: _containers.RepeatedCompositeFieldContainer[TaskQuery]
    top_k: int
    maps: Maps
    replies: ReplyPolicy
    compression: Compression
    details: bool
    answers_wait_ms: int
    def __init__(self, fingerprint: _Optional[bytes] = ..., session: _Optional[bytes] = ..., camera: _Optional[str] = ..., h: _Optional[int] = ..., w: _Optional[int] = ..., tasks: _Optional[_Iterable[_Union[TaskQuery, _Mapping]]] = ..., top_k: _Optional[int] = ..., maps: _Optional[_Union[Maps, str]] = ..., replies: _Optional[_Union[ReplyPolicy, str]] = ..., compression: _Optional[_Union[Compression, str]] = ..., details: _Optional[bool] = ..., answers_wait_ms: _Optional[int] = ...) -> None: ...

class SessionFrame(_message.Message):
    __slots__ = ("number", "data", "captured_at", "captured_after")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    CAPTURED_AT_FIELD_NUMBER: _ClassVar[int]
    CAPTURED_AFTER_FIELD_NUMBER: _ClassVar[int]
    number: int
    data: bytes
    captured_at: int
    captured_after: int
    def __init__(self, number: _Optional[int] = ..., data: _Optional[bytes] = ..., captured_at: _Optional[int] = ..., captured_after: _Optional[int] = ...) -> None: ...

class RefineDeclined(_message.Message):
    __slots__ = ("number",)
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    number: int
    def __init__(self, number: _Optional[int] = ...) -> None: ...

class SessionResponse(_message.Message):
    __slots__ = ("ready", "answer", "refine")
    READY_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    REFINE_FIELD_NUMBER: _ClassVar[int]
    ready: SessionReady
    answer: FrameAnswer
    refine: RefineFrame
    def __init__(self, ready: _Optional[_Union[SessionReady, _Mapping]] = ..., answer: _Optional[_Union[FrameAnswer, _Mapping]] = ..., refine: _Optional[_Union[RefineFrame, _Mapping]] = ...) -> None: ...

class SessionReady(_message.Message):
    __slots__ = ("bundle", "tasks", "base_tasks", "references_max", "frames_max", "idle_ms")
    BUNDLE_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    BASE_TASKS_FIELD_NUMBER: _ClassVar[int]
    REFERENCES_MAX_FIELD_NUMBER: _ClassVar[int]
    FRAMES_MAX_FIELD_NUMBER: _ClassVar[int]
    IDLE_MS_FIELD_NUMBER: _ClassVar[int]
    bundle: str
    tasks: _containers.RepeatedCompositeFieldContainer[Task]
    base_tasks: _containers.RepeatedScalarFieldContainer[str]
    references_max: int
    frames_max: int
    idle_ms: int
    def __init__(self, bundle: _Optional[str] = ..., tasks: _Optional[_Iterable[_Union[Task, _Mapping]]] = ..., base_tasks: _Optional[_Iterable[str]] = ..., references_max: _Optional[int] = ..., frames_max: _Optional[int] = ..., idle_ms: _Optional[int] = ...) -> None: ...

class FrameAnswer(_message.Message):
    __slots__ = ("number", "results", "same_as", "need_intra", "error", "received", "missing", "bytes", "times", "also")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    SAME_AS_FIELD_NUMBER: _ClassVar[int]
    NEED_INTRA_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    TIMES_FIELD_NUMBER: _ClassVar[int]
    ALSO_FIELD_NUMBER: _ClassVar[int]
    number: int
    results: FrameResults
    same_as: int
    need_intra: bool
    error: ErrorStatus
    received: bool
    missing: _containers.RepeatedScalarFieldContainer[str]
    bytes: ByteCount
    times: Times
    also: int
    def __init__(self, number: _Optional[int] = ..., results: _Optional[_Union[FrameResults, _Mapping]] = ..., same_as: _Optional[int] = ..., need_intra: _Optional[bool] = ..., error: _Optional[_Union[ErrorStatus, _Mapping]] = ..., received: _Optional[bool] = ..., missing: _Optional[_Iterable[str]] = ..., bytes: _Optional[_Union[ByteCount, _Mapping]] = ..., times: _Optional[_Union[Times, _Mapping]] = ..., also: _Optional[int] = ...) -> None: ...

class FrameResults(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[TaskResult]
    def __init__(self, results: _Optional[_Iterable[_Union[TaskResult, _Mapping]]] = ...) -> None: ...

class RefineFrame(_message.Message):
    __slots__ = ("number",)
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    number: int
    def __init__(self, number: _Optional[int] = ...) -> None: ...

class RefineRequest(_message.Message):
    __slots__ = ("camera", "tasks", "top_k", "maps")
    CAMERA_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    MAPS_FIELD_NUMBER: _ClassVar[int]
    camera: str
    tasks: _containers.RepeatedCompositeFieldContainer[TaskQuery]
    top_k: int
    maps: Maps
    def __init__(self, camera: _Optional[str] = ..., tasks: _Optional[_Iterable[_Union[TaskQuery, _Mapping]]] = ..., top_k: _Optional[int] = ..., maps: _Optional[_Union[Maps, str]] = ...) -> None: ...

class DescribeRequest(_message.Message):
    __slots__ = ("camera", "running", "trouble")
    CAMERA_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    TROUBLE_FIELD_NUMBER: _ClassVar[int]
    camera: str
    running: str
    trouble: str
    def __init__(self, camera: _Optional[str] = ..., running: _Optional[str] = ..., trouble: _Optional[str] = ...) -> None: ...

class DescribeResponse(_message.Message):
    __slots__ = ("bundles", "wanted")
    BUNDLES_FIELD_NUMBER: _ClassVar[int]
    WANTED_FIELD_NUMBER: _ClassVar[int]
    bundles: _containers.RepeatedCompositeFieldContainer[Bundle]
    wanted: str
    def __init__(self, bundles: _Optional[_Iterable[_Union[Bundle, _Mapping]]] = ..., wanted: _Optional[str] = ...) -> None: ...

class Bundle(_message.Message):
    __slots__ = ("name", "fingerprint", "qualities", "tasks", "default_quality")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    QUALITIES_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_QUALITY_FIELD_NUMBER: _ClassVar[int]
    name: str
    fingerprint: str
    qualities: _containers.RepeatedScalarFieldContainer[int]
    tasks: _containers.RepeatedCompositeFieldContainer[Task]
    default_quality: int
    def __init__(self, name: _Optional[str] = ..., fingerprint: _Optional[str] = ..., qualities: _Optional[_Iterable[int]] = ..., tasks: _Optional[_Iterable[_Union[Task, _Mapping]]] = ..., default_quality: _Optional[int] = ...) -> None: ...

class Task(_message.Message):
    __slots__ = ("name", "kind", "labels", "ids")
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    name: str
    kind: str
    labels: _containers.RepeatedScalarFieldContainer[str]
    ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[str] = ..., labels: _Optional[_Iterable[str]] = ..., ids: _Optional[_Iterable[str]] = ...) -> None: ...
