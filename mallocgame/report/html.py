"""The memory map as one HTML file: no server, no other file; what it can do stands on the page (report.html)."""

import html
import json
import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from mallocgame.program import Program
from mallocgame.report.scene import Scene, label_color, tensor_color


def page(program: Program, scenes: Sequence[tuple[str, Scene]], title: str, figures: Sequence[tuple[str, str]]) -> str:
    """Return the page as text: one map, or several of the same program below one another on one scale of time."""
    escaped = [(html.escape(what), html.escape(value)) for what, value in figures]
    cells = "".join(f"<div><b>{value}</b><span>{what}</span></div>" for what, value in escaped)
    data = json.dumps(_data(program, scenes), allow_nan=False, separators=(",", ":"))
    # Inside <script>, only "</script" and "<!--" would end or change the block.
    safe = data.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    parts = {"TITLE": html.escape(title), "FIGURES": cells, "STYLE": _text("report.css")}
    parts |= {"CODE": _text("report_draw.js") + _text("report.js"), "DATA": safe}
    return re.sub("@([A-Z]+)@", lambda found: parts[found[1]], _text("report.html"))


def _text(name: str) -> str:
    return files("mallocgame.report").joinpath("web", name).read_text(encoding="utf-8")


def _data(program: Program, scenes: Sequence[tuple[str, Scene]]) -> dict[str, Any]:
    first = scenes[0][1]
    return {
        "layers": first.layers,
        "capacities": first.capacities_bytes,
        "links": first.links,
        "steps": [[i.name, i.opcode, i.source, i.trip_count] for i in program.instructions],
        "tensors": [
            [
                t.title,
                t.size_bytes,
                tensor_color(k),
                [[u.step, int(u.kind)] for u in t.uses],
                label_color(tensor_color(k)),
            ]
            for k, t in enumerate(program.tensors)
        ],
        "runs": [{"label": label, **_run(scene)} for label, scene in scenes],
    }


def _run(scene: Scene) -> dict[str, Any]:
    def digits(values: Sequence[float]) -> list[float]:
        return [float(f"{value:.7g}") for value in values]

    return {
        "total": scene.total_seconds,
        "boxes": [
            [
                box.tensor,
                box.layer,
                *digits((box.start_seconds, box.filled_seconds, box.end_seconds)),
                box.offset_bytes,
                box.size_bytes,
            ]
            for box in scene.boxes
        ],
        "arrows": [
            [
                arrow.tensor,
                arrow.source,
                arrow.target,
                *digits((arrow.issue_seconds, arrow.finish_seconds)),
                arrow.size_bytes,
                arrow.executions,
                arrow.due_step,
            ]
            for arrow in scene.arrows
        ],
        "stalls": [[*digits((w.start_seconds, w.end_seconds)), w.step, list(w.arrows)] for w in scene.stalls],
        "edges": digits(scene.step_edges_seconds.tolist()),
        "occupancy": scene.occupancy_bytes.T.tolist(),
        "linkEdges": digits(scene.link_edges_seconds.tolist()),
        "linkInstructions": [digits(row) for row in scene.link_instructions.tolist()],
        "linkCopies": [digits(row) for row in scene.link_copies.tolist()],
    }
