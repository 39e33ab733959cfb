"""Kernels that the user brings (Pallas, Mosaic), of which the pass does not know whether they fit.

Whether a kernel's windows fit into the vector memory shows only when its code is made, after memory-space assignment.
"""

import re

from mallocgame.workloads.hlo.shapes import array_bytes

_KERNEL = re.compile(
    r"^ +(?:ROOT )?%\S+ = (.*? custom-call\(.*?)custom_call_target=\"tpu_custom_call\"(.*)$", re.MULTILINE
)
_ARRAY = re.compile(r"\b[a-z]+\d+[a-z0-9]*\[[\d,]*\]")
_OPERANDS = re.compile(r"operand_layout_constraints=\{((?:[^{}]|\{[^{}]*\})*)\}")
_CAPACITY = re.compile(r"max_size_in_bytes: (\d+)")


def has_large_kernel(hlo: str, log: str) -> bool:
    """Whether a kernel's operands and results together are larger than the fast memory.

    Only those can fail to fit: a window is at most a whole array. Most are cut into blocks and fit nevertheless.
    """
    found = _CAPACITY.search(log)
    capacity = int(found[1]) if found else 0
    for shape, attributes in _KERNEL.findall(hlo):
        operands = _OPERANDS.search(attributes)
        arrays = _ARRAY.findall(shape.partition(" custom-call(")[0]) + _ARRAY.findall(operands[1] if operands else "")
        if sum(array_bytes(text) for text in arrays) > capacity:
            return True
    return False
