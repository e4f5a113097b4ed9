"""From a float32 export to int8 files that keep its accuracy."""
