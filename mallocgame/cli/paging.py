"""`mallocgame paging`: paging policies, one-bit predictions and their proved bounds on a request sequence."""

from typing import TYPE_CHECKING, Annotated

import typer

from mallocgame.cli.common import JsonOption, print_json, print_table, progress, say
from mallocgame.cli.paging_input import Source, TraceArgument, reads_traces, write_rows
from mallocgame.cli.paging_output import BitsOption, OutOption, check_outputs, figure, row_fields, show_rows
from mallocgame.cli.paging_sized import bytes_command, evict_first, tiers_command
from mallocgame.errors import InputError

if TYPE_CHECKING:
    from mallocgame.baselines.paging import PageTrace

app = typer.Typer(
    help="Paging simulator: classical, one-bit and next-arrival policies against the optimum.", no_args_is_help=True
)

_POLICY_HELP = (
    "Policies, comma-separated; 'classical', 'one-bit', 'prompt', 'arrival', 'all'; a+b, a~b, a^b combine two; auto: a "
    "one-bit policy chosen on the training part; package.module:attribute: one of your own."
)
PolicyOption = Annotated[str, typer.Option("--policy", help=_POLICY_HELP)]
MaybePolicyOption = Annotated[str | None, typer.Option("--policy", help=_POLICY_HELP + " Left out: by --bits.")]
SizesOption = Annotated[
    str, typer.Option("--k", help="Cache sizes: frames (100,1000) or shares of the pages (1%,10%).")
]
SizeOption = Annotated[str, typer.Option("--k", help="Cache size: frames, or a share of the distinct pages (1%).")]
FlipOption = Annotated[str, typer.Option("--flip", help="Share of wrong bits; Q0,Q1: of the 0s and of the 1s.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of flips and of randomised policies.")]
PlotOption = Annotated[str | None, typer.Option("--plot", help="Write a plot to this .png, .svg or .pdf file.")]
TrainOption = Annotated[float, typer.Option("--train", help="Share of the requests that learned bits are trained on.")]
RefitOption = Annotated[int | None, typer.Option("--refit", help="watched: requests between two refits.")]
ClosureOption = Annotated[
    str, typer.Option("--closure", help="Of the bits of a prompt: none, up, down, or auto (best on the --train part).")
]
ThresholdOption = Annotated[float, typer.Option("--threshold", help="popu and pleco: bit 1 beyond this many times k.")]
AdversarialOption = Annotated[bool, typer.Option("--adversarial", help="Put the wrong bits where they should hurt.")]


@app.command()
@reads_traces
def run(
    trace: TraceArgument,
    policy: MaybePolicyOption = None,
    k: SizesOption = "1%",
    bits: BitsOption = "lfd",
    flip: FlipOption = "0",
    adversarial: AdversarialOption = False,
    train: TrainOption = 0.5,
    refit: RefitOption = None,
    closure: ClosureOption = "none",
    threshold: ThresholdOption = 1.0,
    seed: SeedOption = 0,
    out: OutOption = None,
    json: JsonOption = False,
    *,
    source: Source,
) -> None:
    """Serve a sequence under each policy and cache size; OPT is always among them.

    Example: mallocgame paging run conversation.jsonl --policy lru,fwa0 --k 1827 --bits lfd --flip 0.01
    """
    check_outputs(out)
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
        refit_requests=refit,
        closure=closure,
        seed=seed,
    )
    names = _names(_default_policy(bits, pages) if policy is None else policy)
    start = told.judge_from(pages, names)
    if start:
        say(f"decided on the first {start} requests; every policy is judged on the other requests")
    with progress("serving", 1.0) as on_progress:
        rows = study(pages, names, parse_sizes(k, pages), told, seed=seed, on_progress=on_progress)
    write_rows(out, map(row_fields, rows))
    title = f"{pages.name}: {pages.num_requests} requests, {pages.num_pages} pages"
    if any(row.eta0 is not None for row in rows):  # some policy is told bits
        title += f", bits: {bits}, flip: {flip}"
    show_rows(rows, json, title, learned=_is_learned(bits))


@app.command()
@reads_traces
def compare(
    trace: TraceArgument,
    policy: PolicyOption = "lru,fwa0,lru0,mark0,mark-predict,lru0+lru",
    k: SizeOption = "1%",
    flips: Annotated[str, typer.Option("--flips", help="Shares of wrong bits to try.")] = "0,0.001,0.01,0.1,0.5",
    points: Annotated[
        str | None,
        typer.Option(
            "--points", help="Predictors, as points: online, watched, shadow:POLICY. Left out: online on a plot."
        ),
    ] = None,
    adversarial: AdversarialOption = False,
    plot: PlotOption = None,
    seed: SeedOption = 0,
    out: OutOption = None,
    json: JsonOption = False,
    *,
    source: Source,
) -> None:
    """Compare policies as more and more of their bits are wrong: faults over OPT, and the proved bound.

    Points are predictors with the share of bits that they have wrong.

    Example: mallocgame paging compare moe:num_tokens=500 --k 20% --plot robustness.png
    """
    check_outputs(out, plot)
    from mallocgame.baselines.paging import flip_study, parse_sizes, point_study

    pages = source.open(trace)
    sizes = parse_sizes(k, pages)
    if len(sizes) != 1:
        raise InputError(f"compare works at one cache size, got {k!r}; curve takes several")
    rates = [_rate(part) for part in flips.split(",")]
    names = _names(policy)
    with progress("serving", 1.0) as on_progress:
        results = flip_study(pages, names, sizes[0], rates, adversarial=adversarial, seed=seed, on_progress=on_progress)
    sources = ("online" if plot else "") if points is None else points
    marks = point_study(
        pages, names, sizes[0], [part.strip() for part in sources.split(",") if part.strip()], seed=seed
    )
    if plot:
        from mallocgame.baselines.paging.plots import plot_flips

        plot_flips(results, plot, title=f"{pages.name}, k = {sizes[0]}", points=marks)
        say(f"wrote {plot}")
    every = [{"flip": rate, **row_fields(row)} for rate in rates for row in results[rate]]
    predictors = {} if points is None else marks
    every += [
        {"flip": None, "bits": bits, "wrong_share": share, **row_fields(row)}
        for bits, found in predictors.items()
        for share, row in found
    ]
    write_rows(out, every)
    if json:
        print_json(every)
        return
    table = []
    for index, name in enumerate(row.policy for row in results[rates[0]]):
        line = [f"{results[rate][index].opt_ratio:.4f}" for rate in rates]
        line += [
            next((f"{row.opt_ratio:.4f}" for _, row in found if row.policy == name), "") for found in marks.values()
        ]
        table.append([name, *line])
    heads = [f"{bits} ({found[0][0]:.1%} wrong)" if found else bits for bits, found in marks.items()]
    title = f"{pages.name}, k = {sizes[0]}: faults / OPT by share of wrong bits"
    print_table(title, ["policy", *map(str, rates), *heads], table)


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
    out: OutOption = None,
    json: JsonOption = False,
    *,
    source: Source,
) -> None:
    """Miss-ratio curves: every policy at every cache size in one pass over the sequence.

    Example: mallocgame paging curve zipf:num_requests=1000000 --k 100,1000,10000 --plot curve.png
    """
    check_outputs(out, plot)
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
    write_rows(out, map(row_fields, rows))
    if json:
        print_json(map(row_fields, rows))
        return
    table = [
        [name, *(f"{row.faults / row.requests:.4f}" if row.requests else "-" for row in rows if row.policy == name)]
        for name in dict.fromkeys(row.policy for row in rows)
    ]
    print_table(f"{pages.name}: miss ratio by cache size", ["policy", *map(str, sizes)], table)


@app.command()
@reads_traces
def train(
    trace: TraceArgument,
    out: Annotated[str, typer.Option("--out", help="Save the predictor to this .npz file.")],
    k: SizeOption = "1%",
    json: JsonOption = False,
    *,
    source: Source,
) -> None:
    """Fit a predictor on all of a trace and save it; judge it on another with --bits model:FILE.

    Example: mallocgame paging train monday.jsonl --k 1827 --out bits.npz
    """
    check_outputs(out, ends=(".npz",))
    from mallocgame.baselines.paging import Predictor, discard_bits, parse_sizes

    pages = source.open(trace)
    sizes = parse_sizes(k, pages)
    if len(sizes) != 1:
        raise InputError(f"a predictor is fitted for one cache size, got {k!r}")
    predictor = Predictor.fit(pages, sizes[0])
    predictor.save(out)
    truth = discard_bits(pages, sizes[0])
    row = {
        "trace": pages.name,
        "k": sizes[0],
        "requests": pages.num_requests,
        "share_of_ones": float(truth.mean()),
        "accuracy_on_training_requests": float((predictor.bits(pages) == truth).mean()),
        "closure": predictor.closure,
        "file": out,
    }
    if json:
        print_json([row])
    else:
        print_table(
            f"predictor for k = {sizes[0]}", list(row)[2:], [[figure(value) for value in list(row.values())[2:]]]
        )


def _is_learned(bits: str) -> bool:
    return bits.partition(":")[0] in ("learned", "watched", "online", "model", "shadow")


def _default_policy(bits: str, pages: "PageTrace") -> str:
    """Where bits are predicted, the robust combination stands among the policies, LRU beside it."""
    if not _is_learned(bits):
        return "lru,fwa0,lru0,mark0,mark-predict"
    prompts = "" if pages.prompts is None else ",prefix-lru,prefix-lru0,prefix-lru0+prefix-lru"
    return "lru0+lru,lru,lru0" + prompts


def _names(text: str) -> list[str]:
    from mallocgame.baselines.paging import ARRIVAL, CLASSICAL, ONE_BIT, PROMPT

    groups = {"classical": CLASSICAL, "one-bit": ONE_BIT, "prompt": PROMPT, "arrival": ARRIVAL}
    groups["all"] = CLASSICAL + ONE_BIT + PROMPT + ARRIVAL
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


app.command("evict-first")(evict_first)
app.command("bytes")(bytes_command)
app.command("tiers")(tiers_command)
