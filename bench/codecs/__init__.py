"""Codecs of images, features and sequences that Isthmus is compared with. They know no network and no bundle."""
