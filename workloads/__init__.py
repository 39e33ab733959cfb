"""Programs and traces: where problems come from."""
