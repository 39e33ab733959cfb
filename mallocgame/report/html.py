"""The memory map as one HTML file: no server, no other file; the wheel zooms, dragging moves, pointing explains."""

import html
import json
import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from mallocgame.report.scene import Scene


def page(scene: Scene, title: str, figures: Sequence[tuple[str, str]]) -> str:
    """Return the page as text."""
    escaped = [(html.escape(what), html.escape(value)) for what, value in figures]
    cells = "".join(f"<div><b>{value}</b><span>{what}</span></div>" for what, value in escaped)
    data = json.dumps(_data(scene), allow_nan=False, separators=(",", ":"))
    # Inside <script>, only "</script" and "<!--" would end or change the block.
    safe = data.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    parts = {"TITLE": html.escape(title), "FIGURES": cells, "STYLE": _text("report.css"), "CODE": _text("report.js")}
    parts["DATA"] = safe
    return re.sub("@([A-Z]+)@", lambda found: parts[found[1]], _text("report.html"))


def _text(name: str) -> str:
    return files("mallocgame.report").joinpath("web", name).read_text(encoding="utf-8")


def _data(scene: Scene) -> dict[str, Any]:
    def digits(values: Sequence[float]) -> list[float]:
        return [float(f"{value:.7g}") for value in values]

    return {
        "total": scene.total_seconds,
        "layers": scene.layers,
        "capacities": scene.capacities_bytes,
        "boxes": [
            [
                box.name,
                box.color,
                box.layer,
                *digits((box.start_seconds, box.filled_seconds, box.end_seconds)),
                box.offset_bytes,
                box.size_bytes,
            ]
            for box in scene.boxes
        ],
        "arrows": [
            [
                arrow.name,
                arrow.source,
                arrow.target,
                *digits((arrow.issue_seconds, arrow.finish_seconds)),
                arrow.size_bytes,
                arrow.executions,
            ]
            for arrow in scene.arrows
        ],
        "stalls": [digits(stall) for stall in scene.stalls],
        "edges": digits(scene.step_edges_seconds.tolist()),
        "occupancy": scene.occupancy_bytes.T.tolist(),
        "links": scene.links,
        "linkEdges": digits(scene.link_edges_seconds.tolist()),
        "linkInstructions": [digits(row) for row in scene.link_instructions.tolist()],
        "linkCopies": [digits(row) for row in scene.link_copies.tolist()],
    }
