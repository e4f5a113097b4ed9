"""The training pipeline: recipes to supernets."""
