"""Two-stage robust optimisation with a learned value function (Neur2RO) on open solvers; see docs/neur2ro.md."""
