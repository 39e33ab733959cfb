"""The same work on many cases, on many cores or machines: each row is on disk as soon as it is made, none twice.

``sweep`` runs jobs on a pool (``Inline``, ``Processes``, ``Cluster``) and keeps their rows in a ``RowFile``.
"""

from mallocgame.sweep.jobs import Failed, Job, Made, Refused, digest_of, source_digest
from mallocgame.sweep.pools import Inline, Pool, Processes
from mallocgame.sweep.rows import Row, RowFile
from mallocgame.sweep.schedule import sweep

__all__ = [
    "Failed",
    "Inline",
    "Job",
    "Made",
    "Pool",
    "Processes",
    "Refused",
    "Row",
    "RowFile",
    "digest_of",
    "source_digest",
    "sweep",
]
