"""A memory hierarchy as a file: the ``hierarchy`` of a trace alone, with its header (docs/trace_format.md)."""

import os

from mallocgame.hierarchy import Hierarchy
from mallocgame.workloads.formats import strict_json
from mallocgame.workloads.trace import decode_hierarchy, encode_hierarchy

FORMAT, VERSION = "mallocgame-hierarchy", 1
StrPath = str | os.PathLike[str]


def save_hierarchy(path: StrPath, hierarchy: Hierarchy) -> None:
    """Write a hierarchy.

    Raises:
        TraceError: the file cannot be written.
    """
    strict_json.write(path, {"format": FORMAT, "version": VERSION, "hierarchy": encode_hierarchy(hierarchy)})


def load_hierarchy(path: StrPath) -> Hierarchy:
    """Read a hierarchy.

    Raises:
        TraceError: the file is not a hierarchy of a known version.
    """
    node = strict_json.read(path)
    strict_json.check_header(node, FORMAT, VERSION)
    _, _, hierarchy = node.fields("format", "version", "hierarchy")
    return decode_hierarchy(hierarchy)
