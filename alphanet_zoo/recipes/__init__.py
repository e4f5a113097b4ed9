"""Training recipes: one YAML file per run that is worth repeating."""
