"""What a chip does in a second: presets with their sources, and the file that a measurement on a real one writes."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from mallocgame.errors import InputError
from mallocgame.files import StrPath
from mallocgame.workloads.formats import strict_json

FORMAT, VERSION = "mallocgame-chip", 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Chip:
    """Constants of the time model. Rates are what a kernel really reaches: a peak figure times an efficiency."""

    name: str
    memory_bytes: int
    flops_per_second: float  # matrix unit, 16-bit operands
    wide_flops_per_second: float  # the same with 32-bit operands at JAX's default precision
    hbm_bytes_per_second: float
    out_bytes_per_second: float  # device to host
    in_bytes_per_second: float  # host to device
    out_overlap: float  # share of a pass's computing that hides copies to the host, 0 to 1
    in_overlap: float  # the same for copies back
    kernel_seconds: float  # between two kernels
    copy_seconds: float  # that starting one copy to or from the host costs
    working_factor: float  # how much more a region's own values take than the jaxpr's order needs

    def __post_init__(self) -> None:
        for key, value in asdict(self).items():
            if key == "name":
                continue
            is_share = key.endswith("_overlap")
            if not (
                0 <= value <= 1
                if is_share
                else (value >= 0 if key.endswith("l_seconds") or key == "copy_seconds" else value > 0)
            ):
                raise InputError(f"chip {self.name}: {key} must be {'from 0 to 1' if is_share else '> 0'}, got {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sheet:
    """A data sheet's figures: TFLOP/s of 16-bit and of 32-bit operands, HBM GiB and GB/s, GB/s of the host's link."""

    tflops: float
    wide_tflops: float
    hbm_gib: float
    hbm_gb_s: float
    link_gb_s: float


MATRIX_EFFICIENCY = {"gpu": 0.68, "tpu": 0.75}  # of the sheet's figure; the H100's fits one row of docs/fit.md
HBM_EFFICIENCY = 0.9  # of the sheet's figure
KERNEL_SECONDS = {"gpu": 3e-6, "tpu": 1e-6}
WORKING_FACTOR = {"gpu": 1.4, "tpu": 1.0}  # GPU: fits one row of docs/fit.md; TPU: not fitted
COPY_SECONDS = 1e-5  # assumed: a few driver calls

_SHEETS = {
    # NVIDIA H100 and A100 (80 GB) SXM data sheets, dense; 32-bit operands as TF32, JAX's default there.
    "h100": _Sheet(tflops=989.4, wide_tflops=494.7, hbm_gib=74.5, hbm_gb_s=3350.0, link_gb_s=0.0),
    "a100": _Sheet(tflops=312.0, wide_tflops=156.0, hbm_gib=74.5, hbm_gb_s=2039.0, link_gb_s=31.5),  # PCIe 4.0 x16
    # cloud.google.com/tpu/docs/v4, v5e and v6e, per chip; 32-bit operands are multiplied as bfloat16 by default.
    # The link to the host is published for none of them: PCIe 3.0 x16 (v4) and 4.0 x16 (others) are assumed.
    "v4": _Sheet(tflops=275.0, wide_tflops=275.0, hbm_gib=32.0, hbm_gb_s=1228.0, link_gb_s=15.75),
    "v5e": _Sheet(tflops=197.0, wide_tflops=197.0, hbm_gib=16.0, hbm_gb_s=819.0, link_gb_s=31.5),
    "v6e": _Sheet(tflops=918.0, wide_tflops=918.0, hbm_gib=32.0, hbm_gb_s=1640.0, link_gb_s=31.5),
}
MEASURED_LINK = {"h100": (53.0e9, 29.5e9)}  # (out, in): docs/fit.md
# (out, in). H100: fitted in docs/fit.md. TPU: the share of an iteration's estimated cycles between start and done of
# the copies in XLA's own schedule of a scan for v5e, as --read-back shows it (docs/fit.md); not measured on a chip.
OVERLAP = {"gpu": (1.0, 0.08), "tpu": (0.87, 0.03)}


def _chip(name: str, sheet: _Sheet) -> Chip:
    family = "gpu" if name in ("h100", "a100") else "tpu"
    out, back = MEASURED_LINK.get(name, (sheet.link_gb_s * 1e9,) * 2)
    return Chip(
        name=name,
        memory_bytes=int(sheet.hbm_gib * 2**30),
        flops_per_second=sheet.tflops * 1e12 * MATRIX_EFFICIENCY[family],
        wide_flops_per_second=sheet.wide_tflops * 1e12 * MATRIX_EFFICIENCY[family],
        hbm_bytes_per_second=sheet.hbm_gb_s * 1e9 * HBM_EFFICIENCY,
        out_bytes_per_second=out,
        in_bytes_per_second=back,
        out_overlap=OVERLAP[family][0],
        in_overlap=OVERLAP[family][1],
        kernel_seconds=KERNEL_SECONDS[family],
        copy_seconds=COPY_SECONDS,
        working_factor=WORKING_FACTOR[family],
    )


CHIPS = {name: _chip(name, sheet) for name, sheet in _SHEETS.items()}


def find_chip(name: str, calibration: StrPath | None = None) -> Chip:
    """Return a preset, with the figures of a calibration file in place of its own.

    Raises:
        InputError: no such preset.
        TraceError: a file that is no calibration.

    >>> find_chip("v5e").hbm_bytes_per_second
    737100000000.0
    """
    if name not in CHIPS:
        raise InputError(f"unknown chip {name!r}, expected one of {', '.join(CHIPS)}")
    return CHIPS[name] if calibration is None else load_calibration(calibration, CHIPS[name])


_FIGURES = tuple(key for key in asdict(CHIPS["h100"]) if key not in ("name", "memory_bytes"))


def load_calibration(path: StrPath, base: Chip) -> Chip:
    """Return ``base`` with a file's figures.

    Raises:
        TraceError: not a calibration, or a figure that is no finite number in its range.
    """
    node = strict_json.read(path)
    strict_json.check_header(node, FORMAT, VERSION)
    _, _, device, figures = node.fields("format", "version", "device", "figures")
    columns = figures.fields(*_FIGURES)
    try:
        read: dict[str, Any] = {key: c.real() for key, c in zip(_FIGURES, columns, strict=True)}
        return replace(base, name=device.text(), **read)
    except InputError as error:
        if hasattr(error, "reason"):
            raise
        figures.fail(str(error))


def save_calibration(path: StrPath, chip: Chip) -> None:
    """Write a chip's figures, whole or not at all.

    Raises:
        TraceError: the file cannot be written.
    """
    figures = {key: getattr(chip, key) for key in _FIGURES}
    strict_json.write(path, {"format": FORMAT, "version": VERSION, "device": chip.name, "figures": figures})
