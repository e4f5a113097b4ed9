"""Classifies pictures with a network or an exported file."""
