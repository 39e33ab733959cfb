"""Changes that no test can see, and why, by module and change."""

EQUIVALENT: dict[tuple[str, str], str] = {}
