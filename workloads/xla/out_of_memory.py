"""The compiler's out-of-memory messages, which go on for pages, in the lines that matter."""

import re

LARGEST = 3

_SUMMARY = re.compile(
    r"Ran out of memory in memory space \w+\. Used \S+ of \S+ \w+\.(?: Exceeded \w+ capacity by [\d.]+\w\.)?"
)
_OWN_FRAMES = re.compile(r"\s+\S*/workloads/(?:xla/)?(?:lower|calls|compiler_child)\.py:\d+.*", re.DOTALL)
_ENTRY = re.compile(r"\b\d+\. Size: (\S+)(.*?)(?=\b\d+\. Size: |$)", re.DOTALL)
_FIELD = (
    r"{}: (.*?)(?=\s+(?:Operator|Shape|Unpadded size|Extra memory|Tag|XLA label|Allocation type|=====)\b|\s*={{5}}|$)"
)


def shortened(message: str) -> str:
    """Return an out-of-memory message as its summary and its largest allocations; any other without our own frames.

    >>> shortened("Ran out of memory in memory space vmem. Used 9.0M of 8.0M vmem. And more.")
    'Ran out of memory in memory space vmem. Used 9.0M of 8.0M vmem.'
    >>> shortened("No emitter. Suspected Python Code Location: net.py:3:1 [step] /a/workloads/xla/lower.py:9:1 [lower]")
    'No emitter. Suspected Python Code Location: net.py:3:1 [step]'
    """
    summary = _SUMMARY.search(message)
    if not summary:
        return _OWN_FRAMES.sub("", message)
    largest = [_described(size, text) for size, text in _ENTRY.findall(message[summary.end() :])[:LARGEST]]
    return " ".join([summary[0], *([f"Largest: {'; '.join(largest)}"] if largest else [])])


def _described(size: str, text: str) -> str:
    found = {
        name: re.search(_FIELD.format(name), text, re.DOTALL) for name in ("Tag", "Shape", "Unpadded size", "Operator")
    }
    tag = found["Tag"]
    if tag is not None and "window" in tag[1]:  # of a kernel: whose operand, and how large a piece of it
        return f"{size} {' '.join(tag[1].split('. The u8')[0].split())}"
    parts = [size]
    if found["Shape"] is not None:
        parts.append(found["Shape"][1].partition("{")[0])
    unpadded = found["Unpadded size"]
    if unpadded is not None and unpadded[1].strip() != size:
        parts.append(f"({unpadded[1].strip()} without padding)")
    label = re.search(r'op_name="([^"]*)"', found["Operator"][1]) if found["Operator"] is not None else None
    return " ".join([*parts, *([f"in {label[1]}"] if label else [])])
