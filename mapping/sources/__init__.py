"""Checkpoints that no TensorFlow format holds, opened by the families that know them."""
