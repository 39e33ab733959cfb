"""`mallocgame paging`: paging policies, one-bit predictions and their proved bounds on a request sequence."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from mallocgame.cli.common import JsonOption, print_json, print_table, progress, say
from mallocgame.cli.paging_input import Source, TraceArgument, reads_traces
from mallocgame.errors import InputError

if TYPE_CHECKING:
    from mallocgame.baselines.paging import Row

app = typer.Typer(
    help="Paging simulator: classical, one-bit and next-arrival policies against the optimum.", no_args_is_help=True
)

PolicyOption = Annotated[
    str,
    typer.Option(
        "--policy", help="Policies, comma-separated; 'classical', 'one-bit', 'arrival', 'all'; a+b and a~b combine two."
    ),
]
SizesOption = Annotated[
    str, typer.Option("--k", help="Cache sizes: frames (100,1000) or shares of the pages (1%,10%).")
]
SizeOption = Annotated[str, typer.Option("--k", help="Cache size: frames, or a share of the distinct pages (1%).")]
BitsOption = Annotated[
    str,
    typer.Option("--bits", help="lfd (exact), learned, online, popu, pleco, zeros, ones, teacher:POLICY, file:PATH."),
]
FlipOption = Annotated[str, typer.Option("--flip", help="Share of wrong bits; Q0,Q1: of the 0s and of the 1s.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of flips and of randomised policies.")]
PlotOption = Annotated[str | None, typer.Option("--plot", help="Write a plot to this .png, .svg or .pdf file.")]
TrainOption = Annotated[float, typer.Option("--train", help="Share of the requests that learned bits are trained on.")]
ThresholdOption = Annotated[float, typer.Option("--threshold", help="popu and pleco: bit 1 beyond this many times k.")]
AdversarialOption = Annotated[bool, typer.Option("--adversarial", help="Put the wrong bits where they should hurt.")]


@app.command()
@reads_traces
def run(
    trace: TraceArgument,
    policy: PolicyOption = "lru,fwa0,lru0,mark0,mark-predict",
    k: SizesOption = "1%",
    bits: BitsOption = "lfd",
    flip: FlipOption = "0",
    adversarial: AdversarialOption = False,
    train: TrainOption = 0.5,
    threshold: ThresholdOption = 1.0,
    seed: SeedOption = 0,
    json: JsonOption = False,
    *,
    source: Source,
) -> None:
    """Serve a sequence under each policy and cache size; OPT is always among them.

    Example: mallocgame paging run conversation.jsonl --policy lru,fwa0 --k 1827 --bits lfd --flip 0.01
    """
    from mallocgame.baselines.paging import HintSource, parse_sizes, study

    pages = source.open(trace)
    zeros, ones = _rates(flip)
    told = HintSource(
        bits=bits,
        flip_zeros=zeros,
        flip_ones=ones,
        adversarial=adversarial,
        threshold=threshold,
        train_share=train,
        seed=seed,
    )
    start = told.judge_from(pages)
    if start:
        say(f"bits are learned on the first {start} requests; every policy is judged on the other requests")
    with progress("serving", 1.0) as on_progress:
        rows = study(pages, _names(policy), parse_sizes(k, pages), told, seed=seed, on_progress=on_progress)
    _show(
        rows, json, f"{pages.name}: {pages.num_requests} requests, {pages.num_pages} pages, bits: {bits}, flip: {flip}"
    )


@app.command()
@reads_traces
def compare(
    trace: TraceArgument,
    policy: PolicyOption = "lru,fwa0,lru0,mark0,mark-predict,lru0+lru",
    k: SizeOption = "1%",
    flips: Annotated[str, typer.Option("--flips", help="Shares of wrong bits to try.")] = "0,0.001,0.01,0.1,0.5",
    adversarial: AdversarialOption = False,
    plot: PlotOption = None,
    seed: SeedOption = 0,
    json: JsonOption = False,
    *,
    source: Source,
) -> None:
    """Compare policies as more and more of their bits are wrong: faults over OPT, and the proved bound.

    Example: mallocgame paging compare moe:num_tokens=500 --k 20% --plot robustness.png
    """
    from mallocgame.baselines.paging import flip_study, parse_sizes

    pages = source.open(trace)
    sizes = parse_sizes(k, pages)
    if len(sizes) != 1:
        raise InputError(f"compare works at one cache size, got {k!r}; curve takes several")
    rates = [_rate(part) for part in flips.split(",")]
    with progress("serving", 1.0) as on_progress:
        results = flip_study(
            pages, _names(policy), sizes[0], rates, adversarial=adversarial, seed=seed, on_progress=on_progress
        )
    if plot:
        from mallocgame.baselines.paging.plots import plot_flips

        plot_flips(results, plot, title=f"{pages.name}, k = {sizes[0]}")
        say(f"wrote {plot}")
    if json:
        print_json({"flip": rate, **_fields(row)} for rate in rates for row in results[rate])
        return
    names = [row.policy for row in results[rates[0]]]
    table = []
    for index, name in enumerate(names):
        line = [results[rate][index] for rate in rates]
        table.append([name, *(f"{row.opt_ratio:.4f}" for row in line)])
    print_table(
        f"{pages.name}, k = {sizes[0]}: faults / OPT by share of wrong bits", ["policy", *map(str, rates)], table
    )


@app.command()
@reads_traces
def curve(
    trace: TraceArgument,
    policy: PolicyOption = "lru,fifo,sieve,s3-fifo,lru0",
    k: SizesOption = "0.1%,0.3%,1%,3%,10%,30%",
    bits: BitsOption = "lfd",
    plot: PlotOption = None,
    train: TrainOption = 0.5,
    seed: SeedOption = 0,
    json: JsonOption = False,
    *,
    source: Source,
) -> None:
    """Miss-ratio curves: every policy at every cache size in one pass over the sequence.

    Example: mallocgame paging curve zipf:num_requests=1000000 --k 100,1000,10000 --plot curve.png
    """
    from mallocgame.baselines.paging import HintSource, parse_sizes, study

    pages = source.open(trace)
    sizes = list(dict.fromkeys(parse_sizes(k, pages)))
    told = HintSource(bits=bits, train_share=train, seed=seed)
    with progress("serving", 1.0) as on_progress:
        rows = study(pages, _names(policy), sizes, told, seed=seed, on_progress=on_progress)
    if plot:
        from mallocgame.baselines.paging.plots import plot_curve

        plot_curve(rows, plot, title=f"{pages.name}: {pages.num_requests} requests, {pages.num_pages} pages")
        say(f"wrote {plot}")
    if json:
        print_json(map(_fields, rows))
        return
    table = [
        [name, *(f"{row.faults / row.requests:.4f}" if row.requests else "-" for row in rows if row.policy == name)]
        for name in dict.fromkeys(row.policy for row in rows)
    ]
    print_table(f"{pages.name}: miss ratio by cache size", ["policy", *map(str, sizes)], table)


@app.command("bytes")
@reads_traces
def bytes_command(
    trace: TraceArgument,
    capacity: Annotated[int, typer.Option("--capacity", help="Bytes of the cache.")],
    policy: Annotated[str, typer.Option("--policy", help="Rules: lru, fifo, greedy-dual-size, belady, lru0.")] = (
        "lru,fifo,greedy-dual-size,belady,lru0"
    ),
    json: JsonOption = False,
    *,
    source: Source,
) -> None:
    """Sized pages and writes: bytes fetched and bytes written back, apart. lru0 gets Belady's exact discard bits.

    TRACE is a file with sizes (oracleGeneral, lcs, vscsi, a table with --size-column) or a program trace.

    Example: mallocgame paging bytes TRACE.json.gz --capacity 16777216
    """
    from mallocgame.baselines.paging import discard_bits, simulate_sized

    accesses = source.open_sized(trace)
    names = [name.strip() for name in policy.split(",")]
    frames = max(1, capacity // max(1, int(accesses.size_bytes.mean()))) if accesses.size_bytes.size else 1
    bits = discard_bits(accesses.pages, frames) if "lru0" in names else None
    with progress("serving", len(names)) as on_progress:
        rules = {name: bits if name == "lru0" else None for name in names}
        results = simulate_sized(accesses, rules, capacity, on_progress=on_progress)
    if json:
        from dataclasses import asdict

        print_json(asdict(result) for result in results)
        return
    print_table(
        f"{accesses.pages.name}: {accesses.pages.num_requests} requests, cache of {capacity} bytes",
        ["rule", "misses", "fetched bytes", "written-back bytes"],
        [[r.rule, str(r.misses), str(r.fetch_bytes), str(r.write_back_bytes)] for r in results],
    )


def _names(text: str) -> list[str]:
    from mallocgame.baselines.paging import ARRIVAL, CLASSICAL, ONE_BIT

    groups = {"classical": CLASSICAL, "one-bit": ONE_BIT, "arrival": ARRIVAL, "all": CLASSICAL + ONE_BIT + ARRIVAL}
    names: list[str] = []
    for part in text.split(","):
        names.extend(groups.get(part.strip(), (part.strip(),)))
    return names


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        raise InputError(f"a share of wrong bits is a number in [0, 1], got {text.strip()!r}") from None
    if not 0.0 <= rate <= 1.0:
        raise InputError(f"a share of wrong bits lies in [0, 1], got {text.strip()}")
    return rate


def _rates(text: str) -> tuple[float, float]:
    parts = text.split(",")
    if len(parts) > 2:
        raise InputError(f"--flip takes one share or two (of the 0s, of the 1s), got {text!r}")
    return _rate(parts[0]), _rate(parts[-1])


def _fields(row: "Row") -> dict[str, Any]:
    """The fields of one row of JSON; those of one-bit policies only where they are known."""
    from dataclasses import asdict

    optional = ("eta0", "eta1", "bound")
    return {key: value for key, value in asdict(row).items() if key not in optional or value is not None}


def _show(rows: "list[Row]", json: bool, title: str) -> None:
    if json:
        print_json(map(_fields, rows))
        return

    def text(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    table = [
        [
            row.policy,
            str(row.k),
            str(row.faults),
            f"{row.opt_ratio:.4f}" if row.opt_ratio == row.opt_ratio else "-",
            text(row.eta0, "d"),
            text(row.eta1, "d"),
            text(row.bound, ".0f"),
            f"{row.seconds:.3f}",
        ]
        for row in rows
    ]
    print_table(title, ["policy", "k", "faults", "/ OPT", "eta0", "eta1", "proved bound", "seconds"], table)
