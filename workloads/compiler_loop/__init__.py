"""The loop with the compiler: a mapping as orders, given, verified, improved."""
