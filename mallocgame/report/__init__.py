"""What people look at: memory maps, comparisons, explanations, Perfetto traces."""
