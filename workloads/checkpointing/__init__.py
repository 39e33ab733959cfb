"""Activation checkpointing: what a training step keeps for its backward pass, what that costs, and the plan put in."""
