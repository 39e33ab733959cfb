"""Predictions: learned bits, cheap online bits, and predicted next arrivals."""
