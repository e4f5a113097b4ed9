"""Architectures, search spaces and their cost. Plain Python and NumPy; loads no torch."""
