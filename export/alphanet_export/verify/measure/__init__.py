"""What is measured of an exported file, a figure or a few a module."""
