"""Search a trained supernet for subnets with the best trade-off of accuracy and cost."""
