"""The loop with the compiler: a mapping as overrides, given, verified, improved."""
