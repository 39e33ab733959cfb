"""What one primitive does, by its shapes: multiplications, bytes, and whether it is fused with its neighbours."""

import math
from dataclasses import dataclass
from enum import IntEnum
from typing import Any


class Kind(IntEnum):
    """How a primitive becomes part of a kernel."""

    ELEMENTWISE = 0  # fused into whatever reads it
    REDUCE = 1  # ends a kernel: its result is stored
    HEAVY = 2  # a kernel of its own: operands and results are stored
    COPY_OUT = 3  # device to host
    COPY_IN = 4  # host to device
    FREE = 5  # made of nothing: never stored


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """``flops`` of the matrix unit; ``moved_bytes`` of a heavy primitive's operands and results."""

    kind: Kind
    flops: float = 0.0
    moved_bytes: int = 0
    is_wide: bool = False  # 32-bit operands in a matrix multiplication


_HEAVY = {"scan", "while", "cond", "sort", "top_k", "approx_top_k", "fft", "rng_bit_generator", "pallas_call"}
_HEAVY |= {"ragged_dot", "ragged_dot_general", "triangular_solve", "cholesky", "lu", "qr", "eigh", "svd"}
_HEAVY |= {"cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp", "select_and_scatter_add", "select_and_gather_add"}
_HEAVY |= {"all_gather", "psum", "reduce_scatter", "all_to_all", "ppermute", "shard_map", "ffi_call", "pure_callback"}
_FREE = {"iota", "empty", "create_token", "axis_index"}


def work_of(eqn: Any) -> Work:
    """Return what an equation does."""
    name = eqn.primitive.name
    if name == "device_put":
        return Work(kind=_copy_kind(eqn))
    if name in ("dot_general", "conv_general_dilated") or "dot_product_attention" in name:
        flops = {"dot_general": _dot_flops, "conv_general_dilated": _convolution_flops}.get(name, _attention_flops)(eqn)
        return Work(kind=Kind.HEAVY, flops=flops, moved_bytes=_all_bytes(eqn), is_wide=_is_wide(eqn))
    if name == "pallas_call":
        estimate = eqn.params.get("cost_estimate")
        flops = float(getattr(estimate, "flops", 0) or 0)
        return Work(kind=Kind.HEAVY, flops=flops, moved_bytes=_all_bytes(eqn))
    if name.startswith("scatter"):
        return Work(kind=Kind.HEAVY, moved_bytes=2 * _bytes(eqn.invars[-1]) + _bytes(eqn.invars[0]))
    if name == "dynamic_update_slice":
        return Work(kind=Kind.HEAVY, moved_bytes=2 * _bytes(eqn.invars[1]))
    if name == "gather":
        return Work(kind=Kind.HEAVY, moved_bytes=2 * _bytes(eqn.outvars[0]))
    if name in _HEAVY or name.startswith("reduce_window"):
        return Work(kind=Kind.HEAVY, moved_bytes=_all_bytes(eqn))
    if name.startswith(("reduce_", "argm")) and name != "reduce_precision":
        return Work(kind=Kind.REDUCE)
    if name in _FREE or (name == "broadcast_in_dim" and _bytes(eqn.invars[0]) <= 16):
        return Work(kind=Kind.FREE)
    return Work(kind=Kind.ELEMENTWISE)


def _bytes(var: Any) -> int:
    aval = var.aval
    return math.prod(aval.shape) * getattr(aval.dtype, "itemsize", 4) if hasattr(aval, "shape") else 0


def _all_bytes(eqn: Any) -> int:
    return sum(_bytes(var) for var in (*eqn.invars, *eqn.outvars))


def _is_wide(eqn: Any) -> bool:
    return any(getattr(var.aval.dtype, "itemsize", 4) >= 4 for var in eqn.invars[:2] if hasattr(var.aval, "dtype"))


def _copy_kind(eqn: Any) -> Kind:
    to_host = "host" in str(getattr(eqn.outvars[0].aval, "memory_space", "")).lower()
    from_host = "host" in str(getattr(eqn.invars[0].aval, "memory_space", "")).lower()
    if to_host == from_host:
        return Kind.ELEMENTWISE
    return Kind.COPY_OUT if to_host else Kind.COPY_IN


def _dot_flops(eqn: Any) -> float:
    (left, _), _ = eqn.params["dimension_numbers"]
    contracted = math.prod(eqn.invars[0].aval.shape[axis] for axis in left)
    return float(2.0 * contracted * math.prod(eqn.outvars[0].aval.shape))


def _convolution_flops(eqn: Any) -> float:
    """Two for each tap of the kernel that meets each output."""
    kernel, numbers = eqn.invars[1].aval.shape, eqn.params["dimension_numbers"]
    outputs = math.prod(eqn.outvars[0].aval.shape)
    features = kernel[numbers.rhs_spec[0]]
    groups = eqn.params["batch_group_count"]
    return float(2.0 * outputs * math.prod(kernel) / max(features, 1) / max(groups, 1))


def _attention_flops(eqn: Any) -> float:
    """Of a fused attention: scores and values, half of them where it is causal; backward 2.5 times as much.

    Source: Dao, FlashAttention-2, arXiv:2307.08691, section 4.1.
    """
    query, key = eqn.invars[0].aval.shape, eqn.invars[1].aval.shape
    length = key[1] if eqn.params.get("layout", 0) == 0 else key[2]
    flops = 4.0 * math.prod(query) * length
    if "causal" in str(eqn.params.get("mask_type", "")).lower():
        flops /= 2.0
    return float(flops * (2.5 if "bwd" in eqn.primitive.name else 1.0))
