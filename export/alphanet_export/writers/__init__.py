"""One file a format: from a frozen net to what a runtime reads."""
