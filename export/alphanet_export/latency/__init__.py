"""Measures the latency of the blocks of a search space on this device, for `alphanet_zoo.search.device`."""
