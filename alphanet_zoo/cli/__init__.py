"""The commands: one thin file for each subcommand of ``alphanet``."""
