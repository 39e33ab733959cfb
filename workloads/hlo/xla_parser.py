"""XLA's own parser, where jaxlib brings it: reads every form that XLA does and prints it in the long one.

It runs in a child: what trips one of XLA's internal checks ends the process that parses it.
"""

import importlib.util
import subprocess
import sys

TIMEOUT_SECONDS = 120.0

_CHILD = """
import sys
from jaxlib import _hlo
data = sys.stdin.buffer.read()
try:
    if sys.argv[1] == "text":
        printed = _hlo.hlo_module_from_text(data.decode("utf-8")).to_string()
    else:
        printed = _hlo.XlaComputation(data).get_hlo_module().to_string()
except Exception as error:
    lines = [line.strip() for line in str(error).splitlines() if "error:" in line] or str(error).splitlines()
    sys.stdout.buffer.write(("E" + (lines[0] if lines else "refused")).encode("utf-8", "replace"))
else:
    sys.stdout.buffer.write(("T" + printed).encode("utf-8", "replace"))
"""


def available() -> bool:
    """Whether jaxlib is installed."""
    return importlib.util.find_spec("jaxlib") is not None


def long_form(text: str) -> tuple[str, str]:
    """Return the module in the long form, or an empty string and why XLA's parser did not take it.

    The second is empty as well where there is no such parser, or it ended without a word.
    """
    return _printed("text", text.encode("utf-8", "surrogatepass"))


def from_proto(data: bytes) -> tuple[str, str]:
    """Return a serialized module (``*.hlo.pb``) in the long form, or an empty string and why not, as ``long_form``."""
    return _printed("proto", _module_in(data))


def _module_in(data: bytes) -> bytes:
    """Return the HloModuleProto in a serialized HloModuleProto, HloProto or HloSnapshot.

    The first field of the outer two is what they hold, of the module it is its name; each first field has the tag 10.
    """
    while data[:1] == b"\n":
        size, at = _varint(data, 1)
        if data[at : at + 1] != b"\n" or at + size > len(data) or _varint(data, at + 1)[0] >= size:
            break
        data = data[at : at + size]
    return data


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the number at a place, and where it ends."""
    number = 0
    for shift, byte in enumerate(data[at : at + 10]):
        number |= (byte & 127) << 7 * shift
        if byte < 128:
            return number, at + shift + 1
    return 0, at


def _printed(kind: str, data: bytes) -> tuple[str, str]:
    if not available():
        return "", ""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _CHILD, kind],
            input=data,
            capture_output=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "", ""
    answer = done.stdout.decode("utf-8", "replace")
    if done.returncode or not answer:
        return "", ""
    return (answer[1:], "") if answer[0] == "T" else ("", answer[1:][:300])
