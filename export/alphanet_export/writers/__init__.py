"""Writers: one module per format, from a frozen network to a file."""
