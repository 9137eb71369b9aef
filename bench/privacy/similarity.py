"""How alike two images are: PSNR and SSIM. Knows nothing of who made them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

_C1, _C2 = 0.01**2, 0.03**2
_SIGMA, _TRUNCATE = 1.5, 3.5  # a window of 11 x 11


def psnr(original: NDArray[np.float32], drawn: NDArray[np.float32]) -> float:
    """Peak signal-to-noise ratio in dB of images (3, S, S) in 0..1, at most 100."""
    error = float(np.mean((original.astype(np.float64) - drawn) ** 2))
    return 10 * float(np.log10(1 / max(error, 1e-10)))


def ssim(original: NDArray[np.float32], drawn: NDArray[np.float32]) -> float:
    """Structural similarity, mean of the three channels of images (3, S, S) in 0..1.

    Wang, Bovik, Sheikh and Simoncelli, "Image quality assessment: from error visibility to structural similarity",
    2004; the Gaussian window and the constants given there, the border included.
    """
    x, y = original.astype(np.float64), drawn.astype(np.float64)
    mean_x, mean_y = _blurred(x), _blurred(y)
    var_x, var_y = _blurred(x * x) - mean_x**2, _blurred(y * y) - mean_y**2
    covariance = _blurred(x * y) - mean_x * mean_y
    means = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    spreads = (2 * covariance + _C2) / (var_x + var_y + _C2)
    return float(np.mean(means * spreads))


def _blurred(x: NDArray[np.float64]) -> NDArray[np.float64]:
    blurred: NDArray[np.float64] = gaussian_filter(x, (0, _SIGMA, _SIGMA), truncate=_TRUNCATE)
    return blurred
