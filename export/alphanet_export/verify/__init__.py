"""From an exported file to a report: parity, accuracy, latency, memory."""
