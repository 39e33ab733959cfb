"""One-bit policies beside all others on six kinds of traces: ``python -m tests.benchmarks.paging --only usable``.

Each trace is cut in two. Every policy serves all of it and is judged on the second half: usable hits where there are
prompts, hits otherwise. The one-bit policy is fixed by a rule, not by results: bits are watched (``predict/drift.py``),
and the policy, LRU0 alone or with a robust partner, is the best on the first half (``selection.py``). It stands beside
the best of all others in hindsight, which is more than anyone can choose beforehand.
"""

import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mallocgame.baselines.paging import (
    CLASSICAL,
    Job,
    PageTrace,
    choose_one_bit,
    get_policy,
    next_use,
    parse_sizes,
    policy_from_name,
    simulate,
    watched_bits,
    with_prompts,
)
from mallocgame.baselines.paging.policy import Hint
from mallocgame.baselines.paging.predict.arrivals import learned_arrivals
from mallocgame.baselines.paging.selection import hints_of, served
from tests.benchmarks.paging_traces import traces

OTHERS = (*(name for name in CLASSICAL if name != "marker"), "prefix-lru", "relaxed-belady")


def judge(trace: PageTrace, num_frames: int, arrivals: Any) -> dict[str, Any]:
    """Return what every policy served on the second half."""
    half = trace.prompt_start(trace.num_requests // 2)
    began = time.perf_counter()
    watched = watched_bits(trace, num_frames)
    choice = choose_one_bit(trace, num_frames, watched.bits, half)
    seconds = time.perf_counter() - began
    hints = {Hint.ARRIVAL: arrivals, Hint.PROMPT: with_prompts(trace, None), Hint.NEXT_USE: next_use(trace)}
    others = [get_policy(name) for name in ("opt", *OTHERS) if trace.prompts is not None or name != "prefix-lru"]
    default = policy_from_name("lru0+lru" if trace.prompts is None else "prefix-lru0+prefix-lru")
    jobs = [Job(policy=p, num_frames=num_frames, hints=hints.get(p.hint), judge_from=half) for p in others]
    jobs.append(Job(policy=choice.policy, num_frames=num_frames, hints=choice.hints, judge_from=half))
    told = hints_of(trace, watched.bits, default)
    jobs.append(Job(policy=default, num_frames=num_frames, hints=told, judge_from=half))
    *results, chosen, robust = (served(trace, result) for result in simulate(trace, jobs))
    found = dict(zip((p.name for p in others), results, strict=True))
    best = max((name for name in found if name != "opt"), key=found.__getitem__)
    return {
        "trace": trace.name,
        "k": num_frames,
        "judged_requests": trace.num_requests - half,
        "counts": "usable hits" if trace.prompts is not None else "hits",
        "best_other": best,
        "best_other_served": found[best],
        "one_bit": choice.policy.name,
        "one_bit_served": chosen,
        "ratio": chosen / max(1, found[best]),
        "robust_default": default.name,
        "robust_default_served": robust,
        "fit_and_choose_seconds": round(seconds, 1),
        "served": found,
    }


def usable(cache: Path, out: Path, only: Sequence[str] = ()) -> None:
    """Judge every trace at five sizes; write a row each to ``out`` and print the table and its median."""
    rows: list[dict[str, Any]] = []
    print("trace | k | best other | served | one bit | served | ratio | robust default")
    for name, (make, sizes) in traces(cache).items():
        if only and name not in only:
            continue
        trace = make()
        arrivals = learned_arrivals(trace, trace.prompt_start(trace.num_requests // 2))
        for num_frames in parse_sizes(sizes, trace):
            row = judge(trace, num_frames, arrivals) | {"trace": name}
            rows.append(row)
            print(
                f"{name} | {row['k']} | {row['best_other']} | {row['best_other_served']} | {row['one_bit']} | "
                f"{row['one_bit_served']} | {row['ratio']:.3f} | {row['robust_default_served']}",
                flush=True,
            )
            out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary(rows)


def summary(rows: Sequence[dict[str, Any]]) -> None:
    """Print the sentence that the README may say, and what any other single policy would have done."""
    ratios = sorted(row["ratio"] for row in rows)
    behind = [row for row in rows if row["ratio"] < 0.98]
    print(
        f"{len({row['trace'] for row in rows})} traces, {len(rows)} pairs of trace and size: median ratio "
        f"{statistics.median(ratios):.3f}, worst {ratios[0]:.3f}, best {ratios[-1]:.3f}; ahead on "
        f"{sum(r > 1.0 for r in ratios)}, within 2 % on {len(rows) - len(behind)}, behind by more on {len(behind)}"
    )
    print("each other policy, if it is taken everywhere: policy | median ratio to the best other | worst")
    for name in OTHERS:
        shares = [row["served"][name] / max(1, row["best_other_served"]) for row in rows if name in row["served"]]
        print(f"{name} | {statistics.median(shares):.3f} | {min(shares):.3f}")
