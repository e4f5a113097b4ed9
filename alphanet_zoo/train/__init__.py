"""Training: recipes, configuration, the training step and the training loop."""
