"""Files that people name: told apart before they are opened, read whole or refused, written whole or not at all."""

from mallocgame.files.kinds import StrPath
from mallocgame.files.reading import (
    MAX_BYTES,
    MAX_INTEGER,
    NOT_TEXT,
    open_input,
    parse_json,
    read_bytes,
    read_json,
    read_lines,
    read_text,
    reader,
    refusing_damage,
)
from mallocgame.files.toml import read_toml
from mallocgame.files.writing import (
    append_bytes,
    atomic_path,
    check_folder,
    check_name,
    check_writable,
    is_stream,
    write_bytes,
    write_text,
)

__all__ = [
    "MAX_BYTES",
    "MAX_INTEGER",
    "NOT_TEXT",
    "StrPath",
    "append_bytes",
    "atomic_path",
    "check_folder",
    "check_name",
    "check_writable",
    "is_stream",
    "open_input",
    "parse_json",
    "read_bytes",
    "read_json",
    "read_lines",
    "read_text",
    "read_toml",
    "reader",
    "refusing_damage",
    "write_bytes",
    "write_text",
]
