"""Figures as people read them."""


def seconds_text(seconds: float | None) -> str:
    """Return a time with a fitting unit; empty for None.

    >>> seconds_text(0.00123456), seconds_text(2.5e-06), seconds_text(None)
    ('1.2346 ms', '2.5000 µs', '')
    """
    if seconds is None:
        return ""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.4f} {unit}"
    return f"{seconds / 1e-9:.4f} ns" if seconds else "0 s"


def bytes_text(size: int) -> str:
    """Return a size in binary units.

    >>> bytes_text(512), bytes_text(117440512)
    ('512 B', '112.0 MiB')
    """
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{int(value)} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
