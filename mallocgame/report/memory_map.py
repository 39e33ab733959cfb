"""The memory map of a judged mapping, as PNG or as a self-contained, zoomable HTML page."""

import os
from dataclasses import dataclass
from pathlib import Path

from mallocgame.errors import InputError
from mallocgame.hierarchy import Hierarchy
from mallocgame.judge.simulation import Timeline, simulate
from mallocgame.mapping import Mapping
from mallocgame.program import Program
from mallocgame.report.scene import build_scene
from mallocgame.text import seconds_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A judged mapping and what it is compared with."""

    title: str
    program: Program
    hierarchy: Hierarchy
    mapping: Mapping
    timeline: Timeline
    xla_judged_seconds: float | None = None
    lower_bound_seconds: float | None = None
    before: Mapping | None = None  # of the same program: drawn above, on the same scale of time (HTML only)

    def figures(self) -> tuple[tuple[str, str], ...]:
        """Return the key figures as (what, value)."""
        seconds = self.timeline.total_seconds
        found = [("judged time", seconds_text(seconds))]
        if self.before is not None:
            then = simulate(self.program, self.hierarchy, self.before).total_seconds
            found.append(("before", seconds_text(then) + (f" ({then / seconds:.3f}× as long)" if seconds else "")))
        if self.xla_judged_seconds is not None:
            ratio = f" (speed-up {self.xla_judged_seconds / seconds:.3f}×)" if seconds else ""
            found.append(("XLA", seconds_text(self.xla_judged_seconds) + ratio))
        if self.lower_bound_seconds is not None:
            gap = f" (gap {100 * (1 - self.lower_bound_seconds / seconds):z.1f} %)" if seconds else ""
            found.append(("bound", seconds_text(self.lower_bound_seconds) + gap))
        found.append(("stalls", seconds_text(float(self.timeline.stall_seconds.sum()))))
        copied = int(self.timeline.link_bytes.sum())
        found.append(("copies", f"{len(self.mapping.transfers)}, {copied / 2**20:.1f} MiB"))
        return tuple(found)


def save_report(path: str | os.PathLike[str], report: Report) -> None:
    """Draw ``report`` into ``path``: a name that ends in ``.png`` or ``.html``.

    Raises:
        InputError: another ending, or the file cannot be written.
    """
    from mallocgame.files import atomic_path, write_text

    suffix = Path(path).suffix
    scene = build_scene(report.program, report.hierarchy, report.mapping, report.timeline)
    try:
        if suffix == ".png":
            from mallocgame.report.png import draw

            with atomic_path(path) as temporary:
                draw(temporary, scene, report.title, report.figures())
        elif suffix == ".html":
            from mallocgame.report.html import page

            scenes = [("after" if report.before is not None else "", scene)]
            if report.before is not None:
                earlier = simulate(report.program, report.hierarchy, report.before)
                scenes.insert(0, ("before", build_scene(report.program, report.hierarchy, report.before, earlier)))
            write_text(path, page(report.program, scenes, report.title, report.figures()))
        else:
            raise InputError(f"{path}: expected a name that ends in .png or .html")
    except OSError as error:
        raise InputError(f"{path}: cannot write: {error.strerror or error}") from None
