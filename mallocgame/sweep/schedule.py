"""Which worker does which job when, what becomes of a worker's death, and when a row is on disk."""

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path

from mallocgame.errors import InputError
from mallocgame.files import write_bytes
from mallocgame.sweep.jobs import Answer, Failed, Job, Made, Refused
from mallocgame.sweep.pools import Pool
from mallocgame.sweep.rows import STATUS, Row, RowFile

ATTEMPTS = 3  # at a job whose worker dies
REFUSED, FAILED, INTERRUPTED = "refused", "failed", "interrupted"


def sweep(
    jobs: Sequence[Job],
    pool: Pool,
    table: RowFile,
    *,
    folder: Path | None = None,
    on_row: Callable[[Job, Row], None] = lambda job, row: None,
    attempts: int = ATTEMPTS,
) -> None:
    """Make the rows that ``table`` lacks.

    A job whose worker dies is done again by another, ``attempts`` times in all; then its row says so (``failed``), as
    where the work raised, and the next sweep tries again. A job with bad input gets a row that says so (``refused``),
    which counts as made.

    Args:
        jobs: what rows there should be, in the order in which they are begun.
        pool: where they run.
        table: where rows go, and where those that an earlier sweep made are found.
        folder: where files that jobs make go.
        on_row: told of each row made now.
        attempts: at each job, at least 1.

    Raises:
        InputError: a row or a file cannot be written.
        KeyboardInterrupt: a signal, or a job that one ended; the rows made so far are in the table.
    """
    unique = {job.key: job for job in jobs}  # two files of the same content are one job
    todo = [job for job in unique.values() if not table.is_made(job.key)]
    tries: Counter[str] = Counter()
    busy: dict[Hashable, Job] = {}
    idle: list[Hashable] = []
    served: dict[Hashable, str] = {}  # the group of each worker's last job

    def finish(job: Job, answer: Answer) -> None:
        row = table.append(_row(job, answer, folder))
        on_row(job, row)
        if row[STATUS] == INTERRUPTED:
            raise KeyboardInterrupt

    with pool:
        while todo or busy:
            while todo and len(busy) < pool.size:
                worker = idle.pop() if idle else pool.start()
                job = todo.pop(_choose(todo, served.get(worker), {job.group for job in busy.values()}))
                try:
                    task = job.task()
                except InputError as error:
                    idle.append(worker)
                    finish(job, Refused(reason=str(error)))
                    continue
                served[worker] = job.group
                busy[worker] = job
                pool.send(worker, task)
            for worker, answer in pool.wait(list(busy)) if busy else ():
                job = busy.pop(worker)
                if isinstance(answer, Failed) and answer.is_worker_lost:
                    tries[job.key] += 1
                    if tries[job.key] < attempts:
                        todo.insert(0, job)
                        continue
                else:
                    idle.append(worker)
                finish(job, answer)


def _choose(todo: Sequence[Job], served: str | None, busy: set[str]) -> int:
    """Return the index of the next job: of the group that the worker knows, else of one that nobody works on."""
    fresh = None
    for index, job in enumerate(todo):
        if job.group == served:
            return index
        if fresh is None and job.group not in busy:
            fresh = index
    return 0 if fresh is None else fresh


def _row(job: Job, answer: Answer, folder: Path | None) -> Row:
    """Return the row of a job that is over; its files are written before."""
    known = {**job.about, "job": job.key}
    if isinstance(answer, Refused):
        return {**known, STATUS: REFUSED, "error": answer.reason}
    if isinstance(answer, Failed):
        return {**known, STATUS: FAILED, "error": answer.reason}
    assert isinstance(answer, Made)
    if folder is not None:
        for name, data in answer.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(path, data)
    return {**known, **answer.row}
