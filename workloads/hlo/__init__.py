"""Scheduled HLO text, read and checked."""
