"""How much of a folder of scheduled HLO text is read: ``python -m tests.benchmarks.hlo_text FOLDER [--chip CHIP]``.

Every file of the folder that holds a scheduled module counts (``*.hlo``, ``*.txt``); of a Markdown report, what stands
in blocks marked ``hlo``, and of C++ sources, raw string literals that hold a module.
"""

import contextlib
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from mallocgame.errors import InputError
from mallocgame.hierarchy import preset
from mallocgame.workloads.hlo import xla_parser
from mallocgame.workloads.hlo.module import parse_hlo
from mallocgame.workloads.hlo_trace import trace_from_hlo

_MARKDOWN = re.compile(r"```hlo\n(HloModule.*?)```", re.DOTALL)
_RAW = re.compile(r'R"(\w*)\((.*?)\)\1"', re.DOTALL)

TAKEN = "XLA's parser takes"


def modules(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield name and text of each scheduled module."""
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        if file.suffix not in (".hlo", ".txt", ".md", ".cc"):
            continue
        text = file.read_text(encoding="utf-8", errors="replace")
        found = [text]
        if file.suffix == ".md":
            found = [match[1] for match in _MARKDOWN.finditer(text)]
        elif file.suffix == ".cc":
            found = [match[2] for match in _RAW.finditer(text)]
        for number, module in enumerate(found):
            if "is_scheduled=true" in module[:4000] and "HloModule" in module:
                yield f"{file.relative_to(folder)}#{number}", module.strip("\n")


def count(folder: Path, chip: str) -> None:
    """Print the counts, and why what XLA's parser takes was not read."""
    seen: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "module.hlo"
        for name, text in modules(folder):
            _read(name, text, file, chip, seen)
    for what, number in seen.items():
        print(f"{what:<22}{number:>7}")
    print(f"{'share read':<22}{100 * seen['read'] / max(seen[TAKEN], 1):>7.1f} %")


def _read(name: str, text: str, file: Path, chip: str, seen: Counter[str]) -> None:
    taken = bool(xla_parser.long_form(text)[0])
    seen["modules"] += 1
    seen[TAKEN] += taken
    with contextlib.suppress(InputError):
        parse_hlo(text)
        seen["parsed without it"] += taken
    file.write_text(text + "\n", encoding="utf-8")
    try:
        trace = trace_from_hlo(file, preset(chip))
    except InputError as error:
        if taken:
            print(f"{name}: {error}")
    else:
        seen["read"] += taken
        seen["with a placement"] += taken and trace.mapping is not None


def main(arguments: list[str]) -> None:
    """Read the command line."""
    chip = arguments[arguments.index("--chip") + 1] if "--chip" in arguments else "v5e"
    folders = [Path(a) for a in arguments if not a.startswith("--") and a != chip]
    if len(folders) != 1 or not folders[0].is_dir():
        raise SystemExit("give one folder")
    count(folders[0], chip)


if __name__ == "__main__":
    main(sys.argv[1:])
