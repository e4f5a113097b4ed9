"""Convolutions for training a supernet on a GPU, without plans of cuDNN; see `operators` and `depthwise`."""
