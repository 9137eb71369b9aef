"""A tail that came as an ONNX model: of a network that the server has no code for. Knows no task.

ONNX Runtime runs it, on a GPU where its build there can, otherwise on the CPU, whatever device torch uses.
"""

from __future__ import annotations

import logging

import onnxruntime as ort
import torch
from torch import Tensor, nn

log = logging.getLogger("isthmus.cloud.onnx_tail")


class OnnxTail(nn.Module):
    """feature (B, C, H, W) or (B, C) -> output (B, ...). Raises ValueError where `model` is no ONNX model of one input
    and one output."""

    def __init__(self, model: bytes) -> None:
        super().__init__()
        self._model, self._session = model, _session(model, "cpu")

    def _apply(self, fn, recurse: bool = True):  # type: ignore[no-untyped-def]
        device = fn(torch.zeros(())).device
        if device.type == "cuda":
            self._session = _session(self._model, device.type)
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def forward(self, y: Tensor) -> Tensor:
        out = self._session.run(None, {"y": y.detach().float().cpu().contiguous().numpy()})[0]
        return torch.from_numpy(out).to(y.device)


def _session(model: bytes, device: str) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    providers = ["CPUExecutionProvider"]
    if device == "cuda":
        if "CUDAExecutionProvider" in ort.get_available_providers():
            providers.insert(0, "CUDAExecutionProvider")
        else:
            log.warning("ONNX Runtime here has no CUDA (onnxruntime-gpu has): the tail runs on the CPU")
    try:
        session = ort.InferenceSession(model, options, providers=providers)
    except Exception as error:  # its exceptions have no common ancestor
        raise ValueError(f"no ONNX model: {str(error).splitlines()[0]}") from None
    if [one.name for one in session.get_inputs()] != ["y"] or len(session.get_outputs()) != 1:
        raise ValueError("an ONNX tail has one input, y, and one output")
    return session
