"""What a subnet is worth: calibrate it, run it, count."""
