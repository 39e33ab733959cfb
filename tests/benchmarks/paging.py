"""Requests per second beside libcachesim, and the Mooncake conversation trace: ``python -m tests.benchmarks.paging``.

Speed: Zipf 1.0, 1e6 pages, 1e7 requests, k = 1e4 and 1e5; medians of three runs, one thread, both programs in turn in
the same process; processor time, which other work on the machine disturbs less than the clock. libcachesim (a
development tool) reads an oracleGeneral file with a hash table of the right size (``hashpower``); its default of 2**24
slots would slow it down. Fault counts of both are compared.
Quality: faults over OPT on the conversation trace with exact, noisy, online and learned bits. Usable hits: six kinds of
traces at five sizes each, see ``paging_usable.py``.
"""

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mallocgame.baselines.paging import (
    ARRIVAL,
    CLASSICAL,
    HintSource,
    Job,
    PageTrace,
    Predictor,
    chat,
    discard_bits,
    get_policy,
    next_use,
    phase_bits,
    read_mooncake,
    simulate,
    study,
    zipf,
)
from mallocgame.baselines.paging.policy import Hint
from mallocgame.baselines.paging.predict.arrivals import popu
from mallocgame.baselines.paging.readers import ORACLE_RECORD
from tests.baselines.paging.paths import CONVERSATION
from tests.benchmarks.paging_traces import shipped
from tests.benchmarks.paging_usable import usable

PEERS = {  # ours: (libcachesim's class, do both define the policy alike)
    "lru": ("LRU", True),
    "fifo": ("FIFO", True),
    "clock": ("Clock", True),
    "sieve": ("Sieve", True),
    "lfu": ("LFU", True),
    "arc": ("ARC", True),
    "s3-fifo": ("S3FIFO", True),
    "opt": ("Belady", True),
    "w-tinylfu": ("WTinyLFU", False),
    "2q": ("TwoQ", True),
    "lirs": ("LIRS", False),
    "lecar": ("LeCaR", False),
}
ALONE = ("opt-heap", "marker", "fwa0", "lru0", "mark0", "mark-predict", "det-mark-predict", "blind-oracle", "lmarker")
FRAMES = 1827


def write_oracle(trace: PageTrace, path: Path) -> None:
    records = np.zeros(trace.num_requests, ORACLE_RECORD)
    following = next_use(trace)
    records["second"] = np.arange(trace.num_requests) // 1000
    records["page"] = trace.pages + np.uint64(1)
    records["size_bytes"] = 1
    records["next_request"] = np.where(following < trace.num_requests, following, -1)
    records.tofile(path)


def peer(name: str, path: Path, num_frames: int) -> Callable[[], tuple[int, float]] | None:
    """Return a function that runs libcachesim's policy: (faults, seconds), None where it is not installed."""
    try:
        import libcachesim
    except ImportError:
        return None
    hash_power = max(10, int(num_frames).bit_length() + 1)

    def run() -> tuple[int, float]:
        options = libcachesim.ReaderInitParam()
        options.ignore_obj_size = True
        reader = libcachesim.TraceReader(str(path), libcachesim.TraceType.ORACLE_GENERAL_TRACE, options)
        cache = getattr(libcachesim, name)(num_frames, hashpower=hash_power)
        began = time.process_time()
        ratio, _ = cache.process_trace(reader)
        seconds = time.process_time() - began
        return round(ratio * path.stat().st_size / ORACLE_RECORD.itemsize), seconds

    return run


def hints_of(trace: PageTrace, num_frames: int) -> dict[Hint, Any]:
    return {
        Hint.NONE: None,
        Hint.NEXT_USE: next_use(trace),
        Hint.DISCARD: discard_bits(trace, num_frames),
        Hint.PHASE: phase_bits(trace, num_frames),
        Hint.ARRIVAL: popu(trace),
    }


def speed(num_requests: int, repeats: int, names: Sequence[str]) -> None:
    trace = zipf(num_requests=num_requests)
    print(f"{trace.name}: {trace.num_requests} requests, {trace.num_pages} distinct pages; million requests a second")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "zipf.oracleGeneral"
        write_oracle(trace, path)
        for num_frames in (10_000, 100_000):
            hints = hints_of(trace, num_frames)
            print(f"\nk = {num_frames}\npolicy | ours | libcachesim | ratio | faults | theirs")
            for name in names:
                row(trace, name, num_frames, hints, path, repeats)


def row(trace: PageTrace, name: str, num_frames: int, hints: dict[Hint, Any], path: Path, repeats: int) -> None:
    policy = get_policy(name)
    job = Job(policy=policy, num_frames=num_frames, hints=hints[policy.hint])
    simulate(trace[:1000], [Job(policy=policy, num_frames=10, hints=None if job.hints is None else job.hints[:1000])])
    theirs = peer(PEERS[name][0], path, num_frames) if name in PEERS else None
    ours_seconds, their_seconds = [], []
    faults, their_faults = 0, 0
    for _ in range(repeats):
        began = time.process_time()
        faults = simulate(trace, [job], num_threads=1)[0].faults
        ours_seconds.append(time.process_time() - began)
        if theirs is not None:
            their_faults, seconds = theirs()
            their_seconds.append(seconds)
    ours = trace.num_requests / statistics.median(ours_seconds) / 1e6
    if theirs is None:
        print(f"{name} | {ours:.1f} | | | {faults} |", flush=True)
        return
    rate = trace.num_requests / statistics.median(their_seconds) / 1e6
    verdict = "equal" if faults == their_faults else ("DIFFERENT" if PEERS[name][1] else "other definition")
    print(f"{name} | {ours:.1f} | {rate:.1f} | {ours / rate:.1f} | {faults} | {their_faults} {verdict}", flush=True)


def predictor() -> None:
    """Time ``predict`` and ``observe``, processor time a request (of a prompt: a block), medians of five."""
    keys, chats = zipf(num_pages=5000, num_requests=80_000, seed=1), chat(num_sessions=300, seed=1)
    single, prompts = Predictor.fit(keys[:30_000], 500), Predictor.fit(chats, 2000)
    assert chats.prompts is not None
    assert chats.prompts.seconds is not None
    cuts = itertools.pairwise(chats.prompts.starts.tolist())
    blocks = [chats.pages[start:stop].tolist() for start, stop in cuts]
    seconds, ids = chats.prompts.seconds.tolist(), keys.pages.tolist()
    costs: dict[str, list[float]] = {"predict": [], "observe": [], "predict and observe a block of a prompt": []}
    for _ in range(5):
        single.forget()
        prompts.forget()
        began = time.process_time()
        for key in ids:
            single.observe(key)
        observed = time.process_time()
        for key in ids:
            single.predict(key)
        predicted = time.process_time()
        for prompt, second in zip(blocks, seconds, strict=True):
            prompts.predict(prompt, second=second)
            prompts.observe(prompt, second=second)
        ended = time.process_time()
        costs["observe"].append((observed - began) / len(ids))
        costs["predict"].append((predicted - observed) / len(ids))
        costs["predict and observe a block of a prompt"].append((ended - predicted) / chats.num_requests)
    for name, values in costs.items():
        print(f"{name}: {statistics.median(values) * 1e6:.2f} microseconds")


def peers(cache: Path) -> None:
    """Compare fault counts with libcachesim on the storage trace that it ships (unit sizes)."""
    trace = shipped("cloud-physics", cache)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "storage.oracleGeneral"
        write_oracle(trace, path)
        print("\npolicy | k | faults | libcachesim's")
        for name, num_frames in itertools.product(PEERS, (489, 2000, 5000)):
            policy = get_policy(name)
            hints = next_use(trace) if policy.hint is Hint.NEXT_USE else None
            ours = simulate(trace, [Job(policy=policy, num_frames=num_frames, hints=hints)])[0].faults
            theirs = peer(PEERS[name][0], path, num_frames)
            print(f"{name} | {num_frames} | {ours} | {theirs()[0] if theirs else 'not installed'}", flush=True)


def conversation() -> None:
    if not CONVERSATION.exists():
        print("\nno conversation trace here")
        return
    trace = read_mooncake(CONVERSATION)
    one_bit = ("fwa0", "lru0", "mark0", "mark-predict", "lru0+lru")
    print(f"\n{trace.name}, k = {FRAMES}, whole trace: faults / OPT")
    columns = {
        "exact": HintSource(),
        "1% wrong": HintSource(flip_zeros=0.01, flip_ones=0.01),
        "10% wrong": HintSource(flip_zeros=0.1, flip_ones=0.1),
        "online": HintSource(bits="online"),
        "popu": HintSource(bits="popu"),
        "pleco": HintSource(bits="pleco"),
    }
    for row_ in study(trace, CLASSICAL, [FRAMES]):
        print(f"{row_.policy} | {row_.faults} | {row_.opt_ratio:.4f}")
    for name, source in columns.items():
        rows = study(trace, one_bit, [FRAMES], source)[1:]
        print(f"{name} bits | " + " | ".join(f"{r.policy} {r.opt_ratio:.4f}" for r in rows), flush=True)
    for name in ("lfd", "popu", "pleco"):
        rows = study(trace, ARRIVAL, [FRAMES], HintSource(bits=name))[1:]
        print(f"{name} arrivals | " + " | ".join(f"{r.policy} {r.opt_ratio:.4f}" for r in rows), flush=True)
    for share, num_frames in ((0.5, FRAMES), (0.3, FRAMES), (0.5, FRAMES // 4), (0.5, FRAMES * 4)):
        learned(trace, share, num_frames)
    second = read_mooncake(CONVERSATION.with_name("synthetic_trace.jsonl"))
    for num_frames in (439, 2196, 8785):
        learned(second, 0.5, num_frames)


def learned(trace: PageTrace, share: float, num_frames: int) -> None:
    """Train on the first requests, judge on the others."""
    source = HintSource(bits="learned", train_share=share)
    rows = study(
        trace, (*CLASSICAL, "prefix-lru", "fwa0", "lru0", "mark0", "mark-predict", "lru0+lru"), [num_frames], source
    )
    print(f"\n{trace.name}: learned on the first {share:.0%}, judged on the other {rows[0].requests}, k = {num_frames}")
    for row_ in rows:
        print(f"{row_.policy} | {row_.faults} | {row_.opt_ratio:.4f} | usable {row_.usable_hits}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--policies", default=",".join((*PEERS, *ALONE)))
    parser.add_argument("--only", choices=("speed", "conversation", "usable", "peers", "predictor"))
    parser.add_argument("--traces", default="", help="of 'usable': names, comma-separated; all if left out")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "mallocgame-traces")
    parser.add_argument("--out", type=Path, default=Path("docs/results/paging_usable.jsonl"))
    arguments = parser.parse_args()
    if arguments.only in (None, "speed"):
        speed(arguments.requests, arguments.repeats, arguments.policies.split(","))
    if arguments.only in (None, "conversation"):
        conversation()
    if arguments.only in (None, "predictor"):
        predictor()
    if arguments.only in (None, "peers"):
        peers(arguments.cache)
    if arguments.only in (None, "usable"):
        usable(arguments.cache, arguments.out, [name for name in arguments.traces.split(",") if name])


if __name__ == "__main__":
    main()
