"""`mallocgame paging evict-first`, `bytes` and `tiers`: programs' tiles, and pages that have sizes."""

from typing import Annotated, Any

import typer

from mallocgame.cli.common import JsonOption, print_json, print_table, progress
from mallocgame.cli.paging_input import Source, TraceArgument, reads_traces, write_rows
from mallocgame.cli.paging_output import BitsOption, OutOption, check_outputs, figure
from mallocgame.errors import InputError


@reads_traces
def evict_first(
    trace: TraceArgument,
    capacity: Annotated[int, typer.Option("--capacity", help="Bytes of the cache.")],
    out: OutOption = None,
    json: JsonOption = False,
    *,
    source: Source,
) -> None:
    """The compiler's evict-first hints of a program: one row for each operand of each instruction.

    Exact for the static schedule: 1 says that the optimum lets the operand's tiles go before their next use.

    Example: mallocgame paging evict-first moe_decode-v5e --capacity 16777216 --tile-bytes 65536 --out hints.jsonl
    """
    check_outputs(out)
    tiled = source.tiled(trace)
    if capacity < tiled.tile_bytes:
        size = tiled.tile_bytes
        raise InputError(f"--capacity {capacity}: holds no tile of {size} bytes; give more, or --tile-bytes less")
    rows = tiled.evict_first_rows(capacity // tiled.tile_bytes)
    write_rows(out, rows)
    if json:
        print_json(rows)
        return
    table = [[figure(value) for value in row.values()] for row in rows]
    print_table(f"{tiled.accesses.pages.name}: evict-first hints", list(rows[0]) if rows else ["instruction"], table)


@reads_traces
def bytes_command(
    trace: TraceArgument,
    capacity: Annotated[int, typer.Option("--capacity", help="Bytes of the cache.")],
    policy: Annotated[str, typer.Option("--policy", help="Rules: lru, fifo, greedy-dual-size, belady, lru0.")] = (
        "lru,fifo,greedy-dual-size,belady,lru0"
    ),
    out: OutOption = None,
    json: JsonOption = False,
    *,
    source: Source,
) -> None:
    """Sized pages and writes: bytes fetched and bytes written back, apart. lru0 gets Belady's exact discard bits.

    TRACE is a file with sizes (oracleGeneral, lcs, vscsi, a table with --size-column) or a program trace.

    Example: mallocgame paging bytes TRACE.json.gz --capacity 16777216
    """
    check_outputs(out)
    from dataclasses import asdict

    from mallocgame.baselines.paging import discard_bits, simulate_sized

    accesses = source.open_sized(trace)
    names = [name.strip() for name in policy.split(",")]
    frames = max(1, capacity // max(1, int(accesses.size_bytes.mean()))) if accesses.size_bytes.size else 1
    bits = discard_bits(accesses.pages, frames) if "lru0" in names else None
    with progress("serving", len(names)) as on_progress:
        rules = {name: bits if name == "lru0" else None for name in names}
        results = simulate_sized(accesses, rules, capacity, on_progress=on_progress)
    write_rows(out, map(asdict, results))
    if json:
        print_json(asdict(result) for result in results)
        return
    print_table(
        f"{accesses.pages.name}: {accesses.pages.num_requests} requests, cache of {capacity} bytes",
        ["rule", "misses", "fetched bytes", "written-back bytes"],
        [[r.rule, str(r.misses), str(r.fetch_bytes), str(r.write_back_bytes)] for r in results],
    )


@reads_traces
def tiers_command(
    trace: TraceArgument,
    tier: Annotated[
        list[str],
        typer.Option(
            "--tier",
            help="NAME:BYTES[:RULE[:ADMISSION]], from the fastest down; rules lru, fifo, lru0, "
            "sieve, s3-fifo, arc; admissions all, reused, bit.",
        ),
    ],
    ttl: Annotated[float | None, typer.Option("--ttl", help="Seconds after which an object is too old.")] = None,
    bits: BitsOption = "online",
    out: OutOption = None,
    json: JsonOption = False,
    *,
    source: Source,
) -> None:
    """A chain of caches of sized objects (HBM, host, SSD): hits by objects and by bytes, what is fetched and written.

    Example: mallocgame paging tiers t.oracleGeneral --tier hbm:1000000:s3-fifo --tier ssd:8000000:lru:reused
    """
    check_outputs(out)
    from dataclasses import asdict

    from mallocgame.baselines.paging import HintSource, get_policy, simulate_tiers

    accesses = source.open_sized(trace)
    chain = [_tier(text) for text in tier]
    told = None
    if any(one.rule == "lru0" or one.admission == "bit" for one in chain):
        frames = max(1, chain[0].capacity_bytes // max(1, int(accesses.size_bytes.mean())))
        told = HintSource(bits=bits).hints(accesses.pages, frames, get_policy("lru0"))
    result = simulate_tiers(accesses, chain, bits=told, ttl_seconds=ttl)
    whole = {key: value for key, value in asdict(result).items() if key != "tiers"}
    whole |= {"object_hit_ratio": result.object_hit_ratio, "byte_hit_ratio": result.byte_hit_ratio}
    rows = [asdict(one) for one in result.tiers]
    write_rows(out, [*rows, whole])
    if json:
        print_json([*rows, whole])
        return
    title = f"{accesses.pages.name}: {result.requests} requests, {result.request_bytes} bytes"
    print_table(title, ["tier", "hits", "hit bytes", "written bytes"], [[*map(str, row.values())] for row in rows])
    heads = ["tiers", *(key.replace("_", " ") for key in whole)]
    print_table("all tiers together", heads, [[str(len(chain)), *map(figure, whole.values())]])


def _tier(text: str) -> Any:
    from mallocgame.baselines.paging import Tier

    parts = text.split(":")
    if not 2 <= len(parts) <= 4 or not parts[1].isdecimal():
        raise InputError(f"a tier is NAME:BYTES[:RULE[:ADMISSION]], got {text!r}")
    given = dict(zip(("rule", "admission"), parts[2:], strict=False))
    return Tier(name=parts[0], capacity_bytes=int(parts[1]), **given)
