"""Memory layers and the links between them, with presets for real chips."""

from dataclasses import dataclass

from mallocgame.errors import InputError
from mallocgame.text import bytes_text


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryLayer:
    """One memory. Layer 0 of a hierarchy is the largest and slowest, and every tensor's home."""

    name: str
    capacity_bytes: int  # what mappings may use; scoped reservations of the compiler are already outside
    bytes_per_second: float  # at which instructions read and write it
    alignment_bytes: int = 1  # offsets are multiples of this


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A copy engine between layers; the pairs it serves share its bandwidth.

    Instructions that touch ``shared_layer`` slow the link: it moves bytes only while that layer is idle (None: never
    slowed). Copies toward faster and toward slower layers wait in two queues, first in first out; when both have work,
    each gets half the bandwidth.
    """

    name: str
    pairs: tuple[tuple[int, int], ...]  # (slower layer, faster layer)
    bytes_per_second: float
    shared_layer: int | None
    latency_seconds: float = 0.0  # link time that each copy costs before its first byte
    max_in_flight: int = 40  # copies under way during one step, per direction


@dataclass(frozen=True, kw_only=True)
class Hierarchy:
    """The memory of one chip (one core of it, where cores do not share).

    Raises:
        InputError: fewer than two layers, a capacity, bandwidth or alignment that is not positive, a pair of layers
            without a link, or with two.
    """

    name: str
    layers: tuple[MemoryLayer, ...]
    links: tuple[Link, ...]

    def __repr__(self) -> str:
        layers = ", ".join(f"{layer.name} {bytes_text(layer.capacity_bytes)}" for layer in self.layers)
        return f"<Hierarchy {self.name}: {layers}>"

    def __post_init__(self) -> None:
        if len(self.layers) < 2:
            raise InputError(f"hierarchy {self.name}: need at least 2 layers, got {len(self.layers)}")
        for layer in self.layers:
            if layer.capacity_bytes <= 0 or not 0 < layer.bytes_per_second < float("inf") or layer.alignment_bytes < 1:
                raise InputError(f"hierarchy {self.name}: capacity, bandwidth and alignment must be positive: {layer}")
        for link in self.links:
            if not 0 < link.bytes_per_second < float("inf") or not 0 <= link.latency_seconds < float("inf"):
                raise InputError(f"hierarchy {self.name}: need bandwidth > 0 and latency >= 0: {link}")
            if link.max_in_flight < 1 or link.shared_layer not in (None, *range(len(self.layers))):
                raise InputError(f"hierarchy {self.name}: need max_in_flight >= 1 and a known shared layer: {link}")
        pairs = sorted(pair for link in self.links for pair in link.pairs)
        expected = [(a, b) for a in range(len(self.layers)) for b in range(a + 1, len(self.layers))]
        if pairs != expected:
            raise InputError(
                f"hierarchy {self.name}: links must serve each pair of {expected} once, they serve {pairs}"
            )

    @property
    def num_layers(self) -> int:
        """L."""
        return len(self.layers)

    def link_index(self, a: int, b: int) -> int:
        """Return the index of the link that copies between layers ``a`` and ``b``, either way."""
        pair = (min(a, b), max(a, b))
        return next(index for index, link in enumerate(self.links) if pair in link.pairs)


def _hbm_and_fast(
    name: str, fast: str, hbm_gib: float, hbm_gb_s: float, fast_bytes: int, fast_tb_s: float
) -> Hierarchy:
    hbm = MemoryLayer(name="HBM", capacity_bytes=int(hbm_gib * 2**30), bytes_per_second=hbm_gb_s * 1e9)
    near = MemoryLayer(name=fast, capacity_bytes=fast_bytes, bytes_per_second=fast_tb_s * 1e12, alignment_bytes=4096)
    link = Link(name=f"HBM-{fast}", pairs=((0, 1),), bytes_per_second=hbm_gb_s * 1e9, shared_layer=0)
    return Hierarchy(name=name, layers=(hbm, near), links=(link,))


def _presets() -> dict[str, Hierarchy]:
    # TPU figures: max_size_in_bytes, alignment and outstanding copies as libtpu 0.0.52 logs them; bandwidths fitted to
    # its cost model (docs/fidelity.md).
    v4 = _hbm_and_fast("v4", "CMEM", 32, 491.24, 67108864, 2.95)
    v5e = _hbm_and_fast("v5e", "VMEM", 16, 737.66, 117440512, 16.6)
    v5p = _hbm_and_fast("v5p", "VMEM", 95, 2350.43, 50266112, 18.1)
    v6e = _hbm_and_fast("v6e", "VMEM", 32, 1638.0, 100597760, 21.3)
    host = MemoryLayer(name="host", capacity_bytes=256 * 2**30, bytes_per_second=32e9)
    pcie = Link(name="PCIe", pairs=((0, 1), (0, 2)), bytes_per_second=32e9, shared_layer=0, latency_seconds=2e-6)
    dma = Link(name="HBM-VMEM", pairs=((1, 2),), bytes_per_second=737.66e9, shared_layer=1)
    # PCIe 4.0 x16: 31.5 GB/s a direction (PCI-SIG); the two inner layers are v5e's.
    offload = Hierarchy(name="host-v5e", layers=(host, *v5e.layers), links=(pcie, dma))
    # NVIDIA H100 SXM data sheet: 80 GB HBM3 at 3.35 TB/s, 50 MB L2; L2 bandwidth 5.5 TB/s as microbenchmarks report
    # (Luo et al. 2024, arXiv 2402.13499). L2 is a cache: this preset asks what an explicitly managed one would give.
    hbm3 = MemoryLayer(name="HBM", capacity_bytes=80 * 10**9, bytes_per_second=3.35e12, alignment_bytes=1)
    l2 = MemoryLayer(name="L2", capacity_bytes=50 * 2**20, bytes_per_second=5.5e12, alignment_bytes=128)
    copy = Link(name="HBM-L2", pairs=((0, 1),), bytes_per_second=3.35e12, shared_layer=0)
    h100 = Hierarchy(name="h100", layers=(hbm3, l2), links=(copy,))
    return {h.name: h for h in (v4, v5e, v5p, v6e, offload, h100)}


PRESETS: dict[str, Hierarchy] = _presets()


def preset(name: str) -> Hierarchy:
    """Return a preset hierarchy by name.

    Raises:
        InputError: no such preset.

    >>> preset("v5e").layers[1].capacity_bytes
    117440512
    """
    if name not in PRESETS:
        raise InputError(f"unknown hierarchy {name!r}, expected one of {', '.join(PRESETS)}")
    return PRESETS[name]
