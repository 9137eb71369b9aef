"""Bytes against the quality of every task: Isthmus, image codecs, coded features and learned codecs."""
