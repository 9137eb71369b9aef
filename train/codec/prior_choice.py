"""The priors by name, and the codec that has each. A compressai one is imported only when it is chosen."""

from __future__ import annotations

from typing import Literal

from train.codec.feature_codec import FeatureCodec
from train.codec.priors import FactorisedCodec, HyperpriorCodec

Prior = Literal["codebook", "factorised", "hyperprior", "compressai-factorised", "compressai-hyperprior"]

# The priors that need no further package.
CODECS: dict[Prior, type[FeatureCodec]] = {
    "codebook": FeatureCodec,
    "factorised": FactorisedCodec,
    "hyperprior": HyperpriorCodec,
}


def codec_of(prior: Prior) -> type[FeatureCodec]:
    """The codec class of a prior. Raises DataError where compressai is needed and not installed."""
    if prior in CODECS:
        return CODECS[prior]
    from train.codec.compressai_priors import PEERS

    return PEERS[prior]
