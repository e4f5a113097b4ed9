"""Models by name: their weights, files and Hub repositories."""
