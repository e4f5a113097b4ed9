"""What an architecture is and what it costs: plain Python and NumPy, instant to import."""
