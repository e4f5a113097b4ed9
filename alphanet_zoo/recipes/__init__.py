"""Training recipes: one YAML file a run that somebody may want to repeat."""
