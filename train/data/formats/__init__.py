"""Data sets on disk, as others lay them out: `--data SPEC` -> pictures and labels that are read when asked for.

    for spec in parse("labels:data/camvid#train"):
        listing = list_set(spec)
        listing.items[0].read()                     # a Pillow picture of its own size
        listing.items[0].labels["segmentation"]()   # (H, W) uint8

What trains reads them through `train.data.open_dataset.open_datasets`, which fits them to a network's size.
"""

from train.data.formats.listing import Item, Listing
from train.data.formats.spec import FORMATS, Spec, list_set, parse

__all__ = ["FORMATS", "Item", "Listing", "Spec", "list_set", "parse"]
