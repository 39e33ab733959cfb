"""XLA's own parser, where jaxlib brings it: reads every form that XLA does and prints it in the long one.

It runs in a child: text that trips one of XLA's internal checks ends the process that parses it.
"""

import importlib.util
import subprocess
import sys

TIMEOUT_SECONDS = 120.0

_CHILD = """
import sys
from jaxlib import _hlo
text = sys.stdin.buffer.read().decode("utf-8")
try:
    printed = _hlo.hlo_module_from_text(text).to_string()
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
    if not available():
        return "", ""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _CHILD],
            input=text.encode("utf-8", "surrogatepass"),
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
