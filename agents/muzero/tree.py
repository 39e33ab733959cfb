"""A search tree over the true rules of one game: rewards are exact, and the incumbent's rest of the game is the value.

The *lead* is the best known way to go on: an action for each decision still to come. A simulation walks down the tree,
makes one new node, and from there plays on as the lead does, up to three times: as it is; with the later uses of each
tensor that was treated otherwise on the way down treated so, too; and with some other tensors, drawn at random, that
take the space that this makes, or give the space that it needs. What that loses or wins against the lead settles within
some tens of decisions, so a roll-out that is not ahead then is not played on; one that is ahead is played to its end,
and if it stays ahead it is the new lead. The game is deterministic and a way that was found can be taken: an edge is
worth the best, not the mean, of what was found behind it.

Choosing follows Gumbel MuZero (Danihelka et al., ICLR 2022): sequential halving with Gumbel noise at the root, inside
the tree the action whose share of the visits is furthest below the improved policy.
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mallocgame.agents.muzero.lead_walk import AHEAD, TEMPERATURE, Walk, walk_from
from mallocgame.game.rules.batch import BatchState
from mallocgame.game.rules.copying import copy_live
from mallocgame.game.rules.state import Groups, Movables, Rules, State
from mallocgame.game.rules.step import do_step, take, write_mask
from mallocgame.game.variation_kernel import below, copy_to
from mallocgame.jit import kernel, part

Bool = npt.NDArray[np.bool_]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]

NEAR = 12  # decisions after the path among which an exchange looks for tensors
MOST_IN = 3  # tensors that take the space of one
SETTLED = 24  # decisions after which a roll-out that is not ahead of the lead is given up
LEAD = 0.7  # prior chance of the lead's action below the root


class Tree(NamedTuple):
    """One tree of N nodes and what a simulation needs; all scratch."""

    child: I64  # int64[N, A], -1: none
    visits: I64  # int64[N, A]
    worth: F64  # float64[N, A], the most that is known to be won from the root on by taking the edge; NaN: nothing
    legal: Bool  # bool[N, A], true where ``seen``
    seen: Bool  # bool[N], the node was met again after it was made
    value: F64  # float64[N], what was found when the node was made
    path: I64  # int64[N, 2], node and action
    ints: I64  # a state
    floats: F64
    leaf_ints: I64  # another one
    leaf_floats: F64
    wanted: I64  # int64[D]
    taken: I64  # int64[D]
    totals: F64  # float64[D], of the roll-out at hand
    base: F64  # float64[D], of the lead
    logits: F64  # float64[A], of the node at hand
    random: U64  # uint64[1]
    current: I64  # int64[D], of a walk
    reached: F64  # float64[D]


def make_tree(batch: BatchState, num_nodes: int, num_actions: int, longest: int) -> Tree:
    """Return the arrays for searches from any row of ``batch``."""
    table = (num_nodes, num_actions)
    ints, floats = batch.ints.shape[1], batch.floats.shape[1]
    return Tree(
        child=np.zeros(table, dtype=np.int64),
        visits=np.zeros(table, dtype=np.int64),
        worth=np.zeros(table),
        legal=np.zeros(table, dtype=np.bool_),
        seen=np.zeros(num_nodes, dtype=np.bool_),
        value=np.zeros(num_nodes),
        path=np.zeros((num_nodes, 2), dtype=np.int64),
        ints=np.zeros(ints, dtype=np.int64),
        floats=np.zeros(floats),
        leaf_ints=np.zeros(ints, dtype=np.int64),
        leaf_floats=np.zeros(floats),
        wanted=np.zeros(longest, dtype=np.int64),
        taken=np.zeros(longest, dtype=np.int64),
        totals=np.zeros(longest),
        base=np.zeros(longest),
        logits=np.zeros(num_actions),
        random=np.zeros(1, dtype=np.uint64),
        current=np.zeros(longest, dtype=np.int64),
        reached=np.zeros(longest),
    )


def considered_visits(num_considered: int, num_simulations: int) -> list[int]:
    """Return how often the action of each simulation at the root has been tried before: sequential halving.

    >>> considered_visits(4, 10)
    [0, 0, 0, 0, 1, 1, 2, 2, 3, 3]
    """
    if num_considered <= 1:
        return list(range(num_simulations))
    rounds, left = math.ceil(math.log2(num_considered)), num_considered
    found: list[int] = []
    visits = [0] * num_considered
    while len(found) < num_simulations:
        for _ in range(max(1, num_simulations // (rounds * left))):
            found += visits[:left]
            visits[:left] = [count + 1 for count in visits[:left]]
        left = max(2, left // 2)
    return found[:num_simulations]


@kernel
def search_rows(  # noqa: PLR0913 (a kernel takes arrays one by one)
    batch: BatchState,
    decision_of: I64,
    tree: Tree,
    masks: Bool,
    logits: F64,
    noise: F64,
    sequences: I64,
    changes: int,
    unit: float,
    seeds: U64,
    leads: I64,
    totals: F64,
    known: Bool,
    policy: F64,
    values: F64,
    actions: I64,
) -> None:
    """Search from every row that is not at its end.

    Args:
        batch: the positions, unchanged.
        decision_of: int64[games, groups], the decision that is about a group, -1: none.
        tree: scratch for one more node than simulations.
        masks: bool[B, A], the legal actions.
        logits: float64[B, A], the network's prior at the root.
        noise: float64[B, A], Gumbel noise at the root.
        sequences: int64[A + 1, simulations], ``considered_visits`` for each number of legal actions.
        changes: of the lead after these (``lead_walk.py``).
        unit: gain in return that makes an action e times as likely.
        seeds: uint64[B], of each row's random numbers.
        leads: int64[B, D], wanted actions; the lead that the search leaves behind is written.
        totals: float64[B, D], seconds after each decision of the lead from here on, written.
        known: bool[B], whether the lead is legal and the totals are true as they are; written: they are now.
        policy: float64[B, A], written: the improved policy.
        values: float64[B], written: the logarithm of the time now over the time at the lead's end.
        actions: int64[B], written: what to play; without noise the lead's, so that no game ends worse than its lead.
    """
    for b in range(batch.which.shape[0]):
        game = batch.which[b]
        r = Rules(batch.rule_ints[game], batch.rule_ints[game], batch.rule_floats[game])
        s = State(r.layout, batch.ints[b], batch.floats[b])
        tree.random[0] = seeds[b]
        values[b], actions[b] = 0.0, 0
        for a in range(policy.shape[1]):
            policy[b, a] = 0.0
        if s.turn[0] >= r.num_decisions:
            continue
        copy_to(tree.base, totals[b])
        for a in range(policy.shape[1]):
            tree.legal[0, a] = masks[b, a]
        final = _begin(r, s, tree, leads[b], known[b])
        legal = 0
        for a in range(policy.shape[1]):
            legal += tree.legal[0, a]
        nodes = 1
        for i in range(sequences.shape[1]):
            root = _root_action(tree, logits[b], noise[b], sequences[legal, i], unit)
            nodes, final = _simulate(r, s, tree, decision_of[game], root, nodes, leads[b], final, unit)
        final = _walk(r, s, tree, decision_of[game], changes, leads[b], final)
        _improved(tree, 0, logits[b], unit, policy[b])
        copy_to(totals[b], tree.base)
        known[b] = True
        values[b] = math.log(s.total[0] / final)
        actions[b] = leads[b, s.turn[0]]  # the best that is known
        most, is_noisy = 0, False
        for a in range(policy.shape[1]):
            most, is_noisy = max(most, tree.visits[0, a]), is_noisy or noise[b, a] != 0.0
        if is_noisy:
            actions[b] = _root_action(tree, logits[b], noise[b], most, unit)


@kernel
def seek(batch: BatchState, turns: I64, actions: I64) -> None:
    """Play the first ``turns`` int64[B] of the legal ``actions`` int64[B, D] in each game of a fresh batch."""
    for b in range(batch.which.shape[0]):
        game = batch.which[b]
        r = Rules(batch.rule_ints[game], batch.rule_ints[game], batch.rule_floats[game])
        s = State(r.layout, batch.ints[b], batch.floats[b])
        for i in range(turns[b]):
            do_step(r, s, actions[b, i])


@part
def _begin(r: Rules, s: State, tree: Tree, lead: I64, is_known: bool) -> float:
    """Make the root, and make the lead legal from here on unless it is known to be; return its seconds at the end."""
    begin = s.turn[0]
    if not is_known:
        state = State(r.layout, tree.ints, tree.floats)
        copy_live(r, state, s)
        copy_to(tree.wanted, lead)
        _follow(r, state, tree.wanted, tree.taken, tree.base, tree.base, np.inf)
        for i in range(begin, r.num_decisions):
            lead[i] = tree.taken[i]
    final = tree.base[r.num_decisions - 1]
    _clear(tree, 0, math.log(s.total[0] / final))
    tree.worth[0, lead[begin]] = tree.value[0]
    return float(final)


@part
def _clear(tree: Tree, node: int, value: float) -> None:
    tree.value[node], tree.seen[node] = value, False
    for a in range(tree.child.shape[1]):
        tree.child[node, a], tree.visits[node, a], tree.worth[node, a] = -1, 0, np.nan


@part
def _follow(r: Rules, s: State, wanted: I64, taken: I64, totals: F64, base: F64, final: float) -> float:
    """Play on as wanted; return the seconds at the end, or what they would be once it is clear that nothing is won.

    ``base`` float64[D] are the seconds after each decision of the lead, ``final`` those at its end (infinite: there is
    none, play to the end).
    """
    last = s.turn[0] + SETTLED
    for i in range(s.turn[0], r.num_decisions):
        taken[i] = take(r, s, wanted[i])
        totals[i] = s.total[0]
        if i >= last and final < np.inf and totals[i] - base[i] > -AHEAD * final:
            return float(final + totals[i] - base[i])
    return float(s.total[0])


@part
def _simulate(  # noqa: PLR0913 (a kernel takes arrays one by one)
    r: Rules, root: State, tree: Tree, decision_of: I64, action: int, nodes: int, lead: I64, final: float, unit: float
) -> tuple[int, float]:
    """Walk to a new node, roll out from there, and note what was found; return how many nodes and the lead's end."""
    s = State(r.layout, tree.ints, tree.floats)
    copy_live(r, s, root)
    begin, node, depth = root.turn[0], 0, 0
    strays = False
    copy_to(tree.wanted, lead)
    while True:
        tree.path[depth, 0], tree.path[depth, 1] = node, action
        depth += 1
        at = s.turn[0]
        strays = strays or action != lead[at]
        tree.wanted[at] = action
        tree.taken[at] = action
        do_step(r, s, action)
        tree.totals[at] = s.total[0]
        following = tree.child[node, action]
        if following < 0 or s.turn[0] >= r.num_decisions:
            break
        node = following
        if not tree.seen[node]:
            tree.seen[node] = True
            write_mask(r, s, tree.legal[node])
        _lead_logits(tree, lead[s.turn[0]])
        action = _inner_action(tree, node, unit)
    end, found = s.turn[0], final
    is_new = tree.child[node, action] < 0 and end < r.num_decisions
    if strays:
        leaf = State(r.layout, tree.leaf_ints, tree.leaf_floats)
        copy_live(r, leaf, s)
        found = _follow(r, s, tree.wanted, tree.taken, tree.totals, tree.base, final)
        if found < final * (1.0 - AHEAD):
            final = _adopt(r, tree, lead, begin, found)
        for kind in range(2):
            if kind == 0 and not _carry(r, tree, decision_of, lead, begin, end):
                continue
            if kind == 1 and not _exchange(r, tree, decision_of, end):
                continue
            if kind == 0:
                copy_live(r, s, leaf)
            rest = s if kind == 0 else leaf  # which nobody needs after that
            other = _follow(r, rest, tree.wanted, tree.taken, tree.totals, tree.base, final)
            if other < final * (1.0 - AHEAD):
                final = _adopt(r, tree, lead, begin, other)
            found = min(found, other)
    value = math.log(root.total[0] / found)
    if is_new:
        tree.child[node, action] = nodes
        _clear(tree, nodes, value)
        nodes += 1
    for k in range(depth):
        node, action = tree.path[k, 0], tree.path[k, 1]
        tree.visits[node, action] += 1
        if not tree.worth[node, action] >= value:
            tree.worth[node, action] = value
    return nodes, final


@part
def _walk(r: Rules, root: State, tree: Tree, decision_of: I64, count: int, lead: I64, final: float) -> float:
    """Change the lead ``count`` times, and note what was found; return the seconds at its end."""
    begin = root.turn[0]
    walk = Walk(tree.current, tree.reached, tree.wanted, tree.taken, tree.totals, tree.ints, tree.floats, tree.random)
    copy_to(walk.current, lead)
    copy_to(walk.reached, tree.base)
    for i in range(count):
        share = TEMPERATURE * (1.0 - i / count)
        action, found = walk_from(r, root, walk, decision_of, tree.logits.shape[0], final, share)
        value = math.log(root.total[0] / found)
        if not tree.worth[0, action] >= value:
            tree.worth[0, action] = value
        if found < final * (1.0 - AHEAD):
            final = found
            for k in range(begin, r.num_decisions):
                lead[k], tree.base[k] = walk.current[k], walk.reached[k]
    return final


@part
def _adopt(r: Rules, tree: Tree, lead: I64, begin: int, final: float) -> float:
    """Make the roll-out at hand the lead."""
    for i in range(begin, r.num_decisions):
        lead[i], tree.base[i] = tree.taken[i], tree.totals[i]
    return final


@part
def _carry(r: Rules, tree: Tree, decision_of: I64, lead: I64, begin: int, end: int) -> bool:
    """Want for the later uses of a tensor what the path does with it where it strays; return whether that differs."""
    differs = False
    for at in range(begin, end):
        action, group = tree.wanted[at], r.decisions[at]
        stays = 2 * ((action + 1) // 2)  # NoCopy into the same layer; Drop: Drop
        for other in range(group + 1, r.tensors[r.groups[group, Groups.TENSOR], Movables.END]):
            later = decision_of[other]
            if later >= end and action != lead[at] and tree.wanted[later] != stays:
                tree.wanted[later] = stays
                differs = True
    return differs


@part
def _exchange(r: Rules, tree: Tree, decision_of: I64, end: int) -> bool:
    """Want some tensors that are used soon in fast memory if the path has just dropped one, else leave one of them out.

    Return whether there are any.
    """
    comes = tree.wanted[end - 1] == 0
    last, fastest, found = min(end + NEAR, r.num_decisions), tree.logits.shape[0] - 1, 0
    for at in range(end, last):
        found += (tree.wanted[at] == 0) == comes
    if found == 0:
        return False
    for _ in range(1 + below(tree.random, min(MOST_IN, found)) if comes else 1):
        rank = below(tree.random, found)
        for at in range(end, last):
            if (tree.wanted[at] == 0) == comes:
                if rank == 0:
                    _want(r, tree, decision_of, at, fastest if comes else 0)
                    break
                rank -= 1
    return True


@part
def _want(r: Rules, tree: Tree, decision_of: I64, at: int, action: int) -> None:
    """Want ``action`` for this and the later uses of the tensor of decision ``at``."""
    group = r.decisions[at]
    for other in range(group, r.tensors[r.groups[group, Groups.TENSOR], Movables.END]):
        later = decision_of[other]
        if later >= at and (action == 0 or tree.wanted[later] == 0):
            tree.wanted[later] = action


@part
def _lead_logits(tree: Tree, action: int) -> None:
    for a in range(tree.logits.shape[0]):
        tree.logits[a] = math.log((1.0 - LEAD) / max(tree.logits.shape[0] - 1, 1))
    tree.logits[action] = math.log(LEAD)


@part
def _completed(tree: Tree, node: int, action: int) -> float:
    """Return what an edge is worth, that of its node where nothing is known."""
    worth = tree.worth[node, action]
    return float(tree.value[node]) if np.isnan(worth) else float(worth)


@part
def _improved(tree: Tree, node: int, logits: F64, unit: float, policy: F64) -> None:
    """Write the improved policy: the prior, each action e times as likely for each ``unit`` that it is worth more."""
    highest = -np.inf
    for a in range(policy.shape[0]):
        if tree.legal[node, a]:
            highest = max(highest, logits[a] + _completed(tree, node, a) / unit)
    total = 0.0
    for a in range(policy.shape[0]):
        policy[a] = 0.0
        if tree.legal[node, a]:
            policy[a] = math.exp(logits[a] + _completed(tree, node, a) / unit - highest)
        total += policy[a]
    for a in range(policy.shape[0]):
        policy[a] /= total


@part
def _inner_action(tree: Tree, node: int, unit: float) -> int:
    """Return the action that was tried least for its chance.

    Here the best known action is e times as likely as the worst, not more: what is worst at first may be part of
    something better, and what is tried in vain costs nothing but time.
    """
    num_actions = tree.logits.shape[0]
    low, high, visits = np.inf, -np.inf, 0
    for a in range(num_actions):
        visits += tree.visits[node, a]
        if tree.legal[node, a]:
            low, high = min(low, _completed(tree, node, a)), max(high, _completed(tree, node, a))
    span, total = max(high - low, unit), 0.0
    for a in range(num_actions):
        if tree.legal[node, a]:
            total += math.exp(tree.logits[a] + (_completed(tree, node, a) - low) / span)
    best, found = -np.inf, 0
    for a in range(num_actions):
        if tree.legal[node, a]:
            chance = math.exp(tree.logits[a] + (_completed(tree, node, a) - low) / span) / total
            score = chance - tree.visits[node, a] / (1.0 + visits)
            if score > best:
                best, found = score, a
    return found


@part
def _root_action(tree: Tree, logits: F64, noise: F64, visits: int, unit: float) -> int:
    """Return the best legal action among those that were tried ``visits`` times (none: among all)."""
    best, found, anyone, fallback = -np.inf, -1, -np.inf, 0
    for a in range(logits.shape[0]):
        if not tree.legal[0, a]:
            continue
        score = logits[a] + noise[a] + _completed(tree, 0, a) / unit
        if score > anyone:
            anyone, fallback = score, a
        if tree.visits[0, a] == visits and score > best:
            best, found = score, a
    return fallback if found < 0 else found
