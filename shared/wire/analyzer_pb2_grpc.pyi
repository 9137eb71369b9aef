"""Types of the generated client and server classes, as grpc.aio uses them. Written by hand: protoc makes none."""

from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import grpc.aio

from shared.wire import analyzer_pb2 as pb

class AnalyzerStub:
    def __init__(self, channel: grpc.aio.Channel) -> None: ...
    Analyze: Callable[..., grpc.aio.UnaryUnaryCall[pb.AnalyzeRequest, pb.AnalyzeResponse]]
    AnalyzeStream: Callable[..., grpc.aio.StreamStreamCall[pb.AnalyzeRequest, pb.AnalyzeStreamResponse]]
    AnalyzeSession: Callable[..., grpc.aio.StreamStreamCall[pb.SessionRequest, pb.SessionResponse]]
    Refine: Callable[..., grpc.aio.UnaryUnaryCall[pb.RefineRequest, pb.AnalyzeResponse]]
    Describe: Callable[..., grpc.aio.UnaryUnaryCall[pb.DescribeRequest, pb.DescribeResponse]]

class AnalyzerServicer:
    def Analyze(
        self,
        request: pb.AnalyzeRequest,
        context: grpc.aio.ServicerContext[pb.AnalyzeRequest, pb.AnalyzeResponse],
    ) -> Coroutine[Any, Any, pb.AnalyzeResponse]: ...
    def AnalyzeStream(
        self,
        requests: AsyncIterator[pb.AnalyzeRequest],
        context: grpc.aio.ServicerContext[pb.AnalyzeRequest, pb.AnalyzeStreamResponse],
    ) -> AsyncIterator[pb.AnalyzeStreamResponse]: ...
    def AnalyzeSession(
        self,
        requests: AsyncIterator[pb.SessionRequest],
        context: grpc.aio.ServicerContext[pb.SessionRequest, pb.SessionResponse],
    ) -> AsyncIterator[pb.SessionResponse]: ...
    def Refine(
        self,
        request: pb.RefineRequest,
        context: grpc.aio.ServicerContext[pb.RefineRequest, pb.AnalyzeResponse],
    ) -> Coroutine[Any, Any, pb.AnalyzeResponse]: ...
    def Describe(
        self,
        request: pb.DescribeRequest,
        context: grpc.aio.ServicerContext[pb.DescribeRequest, pb.DescribeResponse],
    ) -> Coroutine[Any, Any, pb.DescribeResponse]: ...

def add_AnalyzerServicer_to_server(servicer: AnalyzerServicer, server: grpc.aio.Server) -> None: ...
