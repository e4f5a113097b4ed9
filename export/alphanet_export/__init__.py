"""Exports subnets to files and verifies them: parity, accuracy, latency, memory and reports."""
