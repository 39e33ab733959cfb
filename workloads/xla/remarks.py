"""What a trace does not know or takes for granted, in numbers for its provenance and in sentences for its reader."""

from dataclasses import dataclass

from mallocgame.explanation.peaks import peaks
from mallocgame.hierarchy import Hierarchy
from mallocgame.judge.simulation import simulate
from mallocgame.mapping import Mapping
from mallocgame.program import Program
from mallocgame.text import counted
from mallocgame.workloads.hlo.asynchronous import is_start
from mallocgame.workloads.hlo.module import HloInstruction, argument_label, array_bytes, leaves
from mallocgame.workloads.hlo.shapes import array, dimensions
from mallocgame.workloads.hlo.spaces import HOST
from mallocgame.workloads.trace import Trace, Value
from mallocgame.workloads.xla.cycles import cycle_sentence
from mallocgame.workloads.xla.network import is_collective
from mallocgame.workloads.xla.program import XlaProgram
from mallocgame.workloads.xla.records import Position, XlaLog
from mallocgame.workloads.xla.regions import Assumed

_WORTH_A_REASON = 1.25  # judged / XLA's own estimate
_LEAST_OPAQUE_SHARE = 0.0005  # of the time: what is not worth a sentence, as 0.0 % would read
_LEAST_UNSEEN_BYTES = 2**17
_LEAST_COPY_SHARE = 0.005  # of the time: copies that take less are not worth a sentence


@dataclass(frozen=True, kw_only=True)
class Basis:
    """What remarks are made from."""

    log: XlaLog
    built: XlaProgram
    hierarchy: Hierarchy
    assumed: Assumed


def provenance(basis: Basis) -> dict[str, Value]:
    """Return what is unknown or assumed; an ordinary program of one chip gives nothing."""
    log, built = basis.log, basis.built
    facts: dict[str, Value] = {}
    counts, weights = basis.assumed.trip_counts, basis.assumed.weights
    for given, word in ((False, "assumed"), (True, "given")):
        trips = tuple(f"{name}={count:g}" for name, (count, known) in counts.items() if known == given)
        shares = (
            f"{name}={','.join(f'{w:.6g}' for w in each)}" for name, (each, known) in weights.items() if known == given
        )
        facts |= {f"{word}_trip_counts": trips} if trips else {}
        branches = tuple(shares)
        facts |= {f"{word}_branch_weights": branches} if branches else {}
    if log.unknown_bytes:
        facts["unknown_access_bytes"] = sum(log.unknown_bytes.values())
    opaque = [step for step, times in enumerate(built.times) if times.is_opaque]
    if opaque:
        facts |= _opaque_facts(opaque, built.program, basis.hierarchy)
    unseen = [
        use
        for tensor in built.program.tensors
        for use in tensor.uses
        if Position(instruction=log.schedule[use.step][1], operand=use.operand, index=use.index)
        in built.times[use.step].unseen
    ]
    if unseen:
        moved = sum(use.bytes * built.program.instructions[use.step].trip_count for use in unseen)
        facts |= {"unseen_steps": len({use.step for use in unseen}), "unseen_bytes": round(moved)}
    if built.beside:
        seconds = sum(log.home_seconds[step] * built.program.instructions[step].trip_count for step in built.beside)
        facts |= {"asynchronous_steps": len(built.beside), "asynchronous_seconds": seconds}
    collectives = sum(is_collective(built.aliases, name) for _, name in log.schedule)
    if collectives:
        facts["collectives"] = collectives
    facts |= _host_facts(basis)
    copies = [_copy_fact(name, share, built) for name, share in built.replaced.items() if share >= _LEAST_COPY_SHARE]
    if copies:
        facts["synchronous_copies"] = tuple(copies)
    undonated = _undonated(built)
    if undonated:
        facts["copied_because_not_donated"] = tuple(undonated)
    return facts


def _opaque_facts(opaque: list[int], program: Program, hierarchy: Hierarchy) -> dict[str, Value]:
    seconds = simulate(program, hierarchy, Mapping()).elapsed_seconds
    moved = sum(sum(program.instructions[step].fixed_bytes) * program.instructions[step].trip_count for step in opaque)
    return {
        "opaque_steps": len(opaque),
        "opaque_bytes": moved,
        "opaque_share": float(seconds[opaque].sum() / (seconds.sum() or 1.0)),
    }


def _host_facts(basis: Basis) -> dict[str, Value]:
    """Return how much there is to do for the host's link: copies to and from its memory, their bytes, transfers."""
    aliases, instructions = basis.built.aliases, basis.built.program.instructions
    found, transfers = [], 0
    for step, (_, name) in enumerate(basis.log.schedule):
        started = aliases.instruction(name)
        transfers += started.opcode in ("infeed", "outfeed")
        transfers += started.opcode in ("send", "recv") and "is_host_transfer=true" in started.attributes
        arrays = [text for _, text in leaves(started.shape)]
        on_device = [array_bytes(text) for text in arrays if array(text).memory_space != HOST and dimensions(text)]
        if is_start(started.opcode) and on_device and any(array(text).memory_space == HOST for text in arrays):
            found.append(round(max(on_device) * instructions[step].trip_count))
    facts: dict[str, Value] = {"host_copies": len(found), "host_copy_bytes": sum(found)} if found else {}
    return facts | ({"host_transfers": transfers} if transfers else {})


def _copy_fact(name: str, share: float, built: XlaProgram) -> str:
    copied = built.aliases.instruction(name)
    size = sum(array_bytes(text) for _, text in leaves(copied.shape))
    return f"{name}: {size} bytes, {100 * share:.1f} % of the time"


def _undonated(built: XlaProgram) -> list[str]:
    """Return the parameters that are copied whole, for a substantial part of the time, because they are not donated."""
    aliases = built.aliases
    entry = aliases.module.computations[aliases.module.entry]
    donated = {(entry.parameter(number).name, index) for _, number, index in aliases.module.donations}
    parameters = {
        aliases.find((i.name, index)): i
        for i in entry.instructions.values()
        if i.opcode == "parameter"
        for index, _ in leaves(i.shape)
        if (i.name, index) not in donated
    }
    outputs = {text for _, text in leaves(entry.instructions[entry.root].shape)}
    found = []
    for name, share in built.copies.items():
        copied = aliases.instruction(name)
        source = parameters.get(aliases.operand_group(copied, 0, ()))
        if source is None or share < _LEAST_COPY_SHARE:
            continue
        if _shape_of(source) == _shape_of(copied) and _shape_of(source) in outputs:
            size, label = array_bytes(_shape_of(source)), argument_label(source) or source.name
            found.append(f"{label}: {size} bytes, {100 * share:.1f} % of the time in {name}")
    return found


def _shape_of(instruction: HloInstruction) -> str:
    return str(instruction.shape)


def sentences(trace: Trace) -> list[str]:
    """Return what the reader of a captured trace should know, a line each."""
    facts = trace.provenance
    lines: list[str] = []
    if "hlo" in facts:  # read from text: hlo_trace.remarks
        return lines
    for text in _texts(facts.get("assumed_trip_counts")):
        loop, _, count = text.rpartition("=")
        guess = f"trip count unknown, taken as {count} as XLA does; --trip-count {loop}=N says better"
        lines.append(f"{loop}{_source(trace.program, loop)}: {guess}")
    for text in _texts(facts.get("assumed_branch_weights")):
        name, _, shares = text.rpartition("=")
        order = " (of lax.cond: false, true)" if shares.count(",") == 1 else ""
        guess = f"branches taken as equally likely; --branch-weights {name}={shares}{order} says better"
        lines.append(f"{name}{_source(trace.program, name)}: {guess}")
    if trace.program.conditionals and "xla_seconds" in trace.estimates:
        lines.append(
            "XLA's own estimate adds up all branches, and each conditional once more; what is judged weighs them"
        )
    donate = "copied because it is not donated; donate it (jax.jit(…, donate_argnums=…))"
    lines += [f"{text}: {donate}" for text in _texts(facts.get("copied_because_not_donated"))]
    stays = "XLA makes this copy asynchronous, here it stays synchronous"
    lines += [f"{text}: {stays}" for text in _texts(facts.get("synchronous_copies"))]
    left_out = _texts(facts.get("xla_placements_left_out"))
    if left_out:
        names = ", ".join(left_out[:5]) + (", …" if len(left_out) > 5 else "")
        lines.append(
            f"left in slow memory, though XLA's own mapping moves them, because branches share their places: {names}"
        )
    if isinstance(seconds := facts.get("asynchronous_seconds"), float) and seconds > 0:
        what = f"{_count(facts, 'asynchronous_steps', 'step')} of asynchronous computations beside others"
        lines.append(f"{what}: {1e6 * seconds:.1f} µs of memory time are charged nothing, as XLA does")
    share = facts.get("opaque_share")
    if isinstance(share, float) and share >= _LEAST_OPAQUE_SHARE:
        what = f"{100 * share:.1f} % of the time is that of {_count(facts, 'opaque_steps', 'step')}"
        unknown = "which XLA's cost model does not know (custom calls, infeeds)"
        lines.append(f"{what}, {unknown}: what they are given, moved once, in slow memory")
    unseen = facts.get("unseen_bytes")
    if isinstance(unseen, int) and unseen >= _LEAST_UNSEEN_BYTES:
        what = f"{_count(facts, 'unseen_steps', 'scatter')}: XLA's cost model leaves out {unseen / 2**20:.1f} MiB that"
        lines.append(f"{what} is read; here it is charged")
    collectives = facts.get("collectives")
    if collectives and "ici_bytes_per_second" not in facts:
        lines.append(
            f"{_count(facts, 'collectives', 'collective')}: charged for memory only, the network's time is unknown"
            " (--ici-gbps)"
        )
    moved = facts.get("host_copy_bytes")
    if isinstance(moved, int):
        what = f"{_count(facts, 'host_copies', 'asynchronous copy')} to or from the host, {moved / 2**20:.1f} MiB a run"
        lines.append(f"{what}: the host's link is not in XLA's cost model, their time is not charged")
    if "host_transfers" in facts:
        what = f"{_count(facts, 'host_transfers', 'transfer')} with the host (callbacks, prints, feeds)"
        lines.append(f"{what}: charged for memory only, the host's time is unknown")
    hbm = next(iter(peaks(trace.program, trace.hierarchy, Mapping())), None)
    if hbm is not None and hbm.occupied_bytes > hbm.capacity_bytes:
        sizes = f"{hbm.occupied_bytes / 2**30:.1f} GiB of {hbm.capacity_bytes / 2**30:.1f} at {hbm.instruction}"
        lines.append(
            f"{hbm.layer} overflows: {sizes}; show lists the largest tensors, --full the compiler's own message"
        )
    share = facts.get("disagreeing_share")
    if isinstance(share, float):
        name = str(facts.get("disagreeing_instruction", ""))
        where = f"most in {name}{_source(trace.program, name)}"
        lines.append(f"{100 * share:.1f} % of XLA's own timeline is read over 1 % wrong, {where}: a fault here")
    error = facts.get("disagreeing_total")
    if isinstance(error, float):
        lines.append(f"the total of XLA's own timeline is read {100 * error:+.1f} % wrong: a fault here")
    lines += _own_estimate(trace)
    lines += _texts(facts.get("notes"))
    lines += [text for text in (cycle_sentence(trace),) if text]
    return lines


def _own_estimate(trace: Trace) -> list[str]:
    """Say why the judge charges XLA's own mapping much more than XLA does."""
    own = trace.estimates.get("xla_seconds")
    given = {"given_trip_counts", "given_branch_weights"} & trace.provenance.keys()  # XLA's is for others
    if trace.mapping is None or not isinstance(own, float) or own <= 0 or given:
        return []
    ratio = simulate(trace.program, trace.hierarchy, trace.mapping).total_seconds / own
    if ratio < _WORTH_A_REASON:
        return []
    why = "its simulator charges operands that stay in slow memory as if they were in fast, and unknown steps a cycle"
    times = f"{ratio:.1f}" if ratio < 10 else f"{ratio:.0f}"
    return [f"judged {times} times XLA's own estimate: {why} (docs/fidelity.md)"]


def _count(facts: dict[str, Value], key: str, noun: str) -> str:
    number = facts.get(key)
    return counted(number if isinstance(number, int) else 0, noun)


def _texts(value: Value) -> tuple[str, ...]:
    return tuple(str(entry) for entry in value) if isinstance(value, tuple) else ()


def _source(program: Program, name: str) -> str:
    found = next((i.source for i in program.instructions if i.name == name and i.source), "")
    return f" ({found})" if found else ""
