"""What to keep, to offload and to recompute: the decision."""
