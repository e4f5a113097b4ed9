"""From a trained supernet to a Pareto front."""
