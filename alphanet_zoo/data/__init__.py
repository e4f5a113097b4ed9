"""Images: sources, decoding, the evaluation transform, the training transform, batches."""
