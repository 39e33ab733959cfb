"""Tests of the loop with the compiler."""
