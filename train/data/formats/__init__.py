"""Data sets on disk as others lay them out: a spec -> images and labels, each read when asked for.

    for spec in parse("labels:data/camvid#train"):
        listing = list_set(spec)
        listing.items[0].read()                     # a Pillow image of its own size
        listing.items[0].labels["segmentation"]()   # (H, W) uint8

Training reads them through `train.data.open_dataset`, which fits them to a network's size.
"""

from train.data.formats.listing import Item, Listing
from train.data.formats.spec import FORMATS, Spec, list_set, parse

__all__ = ["FORMATS", "Item", "Listing", "Spec", "list_set", "parse"]
