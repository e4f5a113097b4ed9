"""Figures as frozen values, and how they are shown."""
