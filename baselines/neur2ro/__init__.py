"""Two-stage robust plans: exact, searched or learned (Neur2RO), for our problems and a user's own (docs/neur2ro.md)."""
