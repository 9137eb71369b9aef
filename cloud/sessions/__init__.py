"""Sessions: the frames of one camera, each coded given frames that were answered before."""
