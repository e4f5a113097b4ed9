"""The network, its slices, its statistics and its losses."""
