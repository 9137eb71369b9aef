"""Imports torchvision next to a torch of another build. The only module that may import torchvision.

The wheels of torchvision on the package registry are built for CUDA. Next to a CPU build of torch its compiled
operators cannot be loaded, and the import fails with "operator torchvision::nms does not exist", because its Python
code registers fake kernels for two operators that are not defined. Once they are defined here, the import succeeds:
models, transforms and feature extraction work; `torchvision.io` and `torchvision.ops.nms` do not, and are not needed.
"""

from __future__ import annotations

from types import ModuleType

import torch

from shared.errors import DataError

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor a, Tensor b, float c) -> Tensor",
)
_library: torch.library.Library | None = None  # its definitions live as long as it does


def import_torchvision() -> ModuleType:
    """torchvision, with its models. Raises DataError where it is not installed or cannot be imported."""
    global _library
    try:
        import torchvision  # type: ignore[import-untyped]
    except ModuleNotFoundError as error:
        raise DataError(
            f"{error.name} is not installed; pip install -c constraints.txt -e '.[train]'"
        ) from None
    except RuntimeError:
        if _library is None:
            _library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
            for schema in _SCHEMAS:
                _library.define(schema)  # type: ignore[no-untyped-call]
        try:
            import torchvision
        except RuntimeError as error:
            raise DataError(
                f"torchvision does not fit torch {torch.__version__}: {str(error).splitlines()[0]}"
            ) from None
    module: ModuleType = torchvision
    return module
