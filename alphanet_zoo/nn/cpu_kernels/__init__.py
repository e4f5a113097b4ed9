"""Compiled CPU loops for training in float32, as custom operators of torch; see `operators` and `library`."""
