"""A memory hierarchy as a file: the ``hierarchy`` of a trace alone, with its header, or as people write it by hand.

By hand (JSON, or TOML in a file called ``.toml``; docs/trace_format.md) layers and links are a list of rows, and what
goes without saying may be left out.
"""

import os
from typing import Any

from mallocgame.files import read_toml
from mallocgame.hierarchy import Hierarchy
from mallocgame.workloads.formats import strict_json
from mallocgame.workloads.formats.strict_json import Node
from mallocgame.workloads.trace import decode_hierarchy, encode_hierarchy

FORMAT, VERSION = "mallocgame-hierarchy", 1
StrPath = str | os.PathLike[str]

_LAYER = {"name": None, "capacity_bytes": None, "bytes_per_second": None, "alignment_bytes": 1}
_LINK = {
    "name": None,
    "pairs": None,
    "bytes_per_second": None,
    "shared_layer": None,
    "latency_seconds": 0.0,
    "max_in_flight": 40,
}


def save_hierarchy(path: StrPath, hierarchy: Hierarchy) -> None:
    """Write a hierarchy.

    Raises:
        TraceError: the file cannot be written.
    """
    strict_json.write(path, {"format": FORMAT, "version": VERSION, "hierarchy": encode_hierarchy(hierarchy)})


def load_hierarchy(path: StrPath) -> Hierarchy:
    """Read a hierarchy.

    Raises:
        TraceError: the file is not a hierarchy of a known version, nor one written by hand.
    """
    node = Node(path, "", read_toml(path)) if os.fspath(path).endswith(".toml") else strict_json.read(path)
    if isinstance(node.value, dict) and "format" not in node.value and "layers" in node.value:
        return decode_hierarchy(Node(path, "", _columns(node)))
    if not isinstance(node.value, dict) or node.value.get("format") != FORMAT:
        start = "`mallocgame convert --hierarchy v5e mine.json` writes one to start from"
        node.fail(f"expected a hierarchy: name and layers, or a file of format {FORMAT!r}; {start}")
    strict_json.check_header(node, FORMAT, VERSION)
    _, _, hierarchy = node.fields("format", "version", "hierarchy")
    return decode_hierarchy(hierarchy)


def _columns(node: Node) -> dict[str, Any]:
    """Return what is written by hand as the object of a trace.

    Without links, each layer has one to all that are faster, of its own speed and slowed by its traffic.
    """
    names = ("name", "layers", "links") if "links" in node.value else ("name", "layers")
    name, layers, *links = node.fields(*names)
    rows = [_row(row, _LAYER) for row in layers.items()]
    if links:
        joined = [_row(row, _LINK) for row in links[0].items()]
    else:
        joined = [
            _LINK
            | {
                "name": str(row["name"]),
                "pairs": [[i, j] for j in range(i + 1, len(rows))],
                "bytes_per_second": row["bytes_per_second"],
                "shared_layer": i,
            }
            for i, row in enumerate(rows[:-1])
        ]
    for row in joined:
        row["shared_layer"] = -1 if row["shared_layer"] is None else row["shared_layer"]
    return {
        "name": name.value,
        "layers": {key: [row[key] for row in rows] for key in _LAYER},
        "links": {key: [row[key] for row in joined] for key in _LINK},
    }


def _row(node: Node, defaults: dict[str, Any]) -> dict[str, Any]:
    """Return a row with what it leaves out; None stands for what it may not leave out, but for the shared layer."""
    if not isinstance(node.value, dict):
        node.fail(f"expected a table with {', '.join(defaults)}")
    needed = [key for key, value in defaults.items() if value is None and key != "shared_layer"]
    given = node.fields(*needed, *(key for key in node.value if key in defaults and key not in needed))
    row = defaults | {field.where.rpartition(".")[2]: field.value for field in given}
    size = row.get("capacity_bytes")
    if isinstance(size, float) and size.is_integer() and size < 2**53:  # 16e9, as TOML and people write it
        row["capacity_bytes"] = int(size)
    return row
