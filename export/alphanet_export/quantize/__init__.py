"""From a float32 export to int8: ranges, corrected biases, and the layers that must stay in float."""
