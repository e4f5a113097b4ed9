"""Evaluation of networks: calibration, accuracy and statistics."""
