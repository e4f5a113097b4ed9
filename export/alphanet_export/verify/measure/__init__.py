"""Measurements of an exported file, one or a few per module."""
