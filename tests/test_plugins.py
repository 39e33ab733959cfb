"""What others write: a solver named by where it is, and the messages where a name means nothing."""

import json
import tomllib
from pathlib import Path

import pytest

from mallocgame.baselines.placement.greedy import greedy
from mallocgame.errors import InputError
from mallocgame.evaluation import find_solver, solve, solver_names
from mallocgame.hierarchy import preset
from mallocgame.solver import Problem
from mallocgame.workloads.formats.hierarchy_file import load_hierarchy, save_hierarchy
from tests.cli.run import run
from tests.toy import toy_program

MODULE = '''
import numba

from mallocgame import load_trace
from mallocgame.mapping import Mapping
from mallocgame.solver import Incumbent, SolveResult, solver


@solver
def twice(search: Incumbent, *, times: int = 2) -> None:
    """Offer nothing new, ``times`` times."""
    for _ in range(times):
        search.offer(search.mapping)
        search.count()


def plain(program, hierarchy, *, seconds, seed, start):
    return Mapping()


def broken(program, hierarchy, *, seconds, seed, start):
    raise RuntimeError("mine")


def unlucky(program, hierarchy, *, seconds, seed, start):
    try:
        return {}["absent"]
    except KeyError as error:
        raise OSError("mine, too") from error


@numba.njit
def kernel(x):
    return x.absent


@solver(warm_up=lambda problem: kernel(3))
def uncompiled(search):
    """Has a kernel that Numba cannot compile."""


@solver
def refused(search):
    """Ask for a trace that is not there."""
    load_trace("nonesuch")


def wrong(program, hierarchy, *, seconds, seed, start):
    return 3


number = 3
'''


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"solvers_of_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return name


def test_a_solver_of_one_s_own_is_named_by_where_it_is(module: str) -> None:
    problem = Problem(toy_program(num_layers=4), preset("v5e"))
    start = greedy(*problem, seconds=20.0).mapping
    for name in ("twice", "plain"):
        judged = solve(problem, solver=f"{module}:{name}", seconds=5.0, start=start)
        assert judged.violations == ()
        assert judged.mapping == start
    assert solve(problem, solver=f"{module}:twice", steps=1, times=1).violations == ()


def test_what_is_no_mapping_is_told(module: str) -> None:
    with pytest.raises(InputError, match=f"{module}:wrong' returned 3, expected a Mapping"):
        solve(Problem(toy_program(num_layers=4), preset("v5e")), solver=f"{module}:wrong", start="none")


def test_its_errors_are_its_own(module: str) -> None:
    with pytest.raises(RuntimeError, match="mine"):
        solve(Problem(toy_program(num_layers=4), preset("v5e")), solver=f"{module}:broken", start="none")


def test_the_traceback_of_its_errors_is_its_own_lines(
    module: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, lines, last in (
        ("broken", ["in broken"], "RuntimeError: mine"),
        ("unlucky", ["in unlucky", "in unlucky"], "OSError: mine, too"),  # it is not an output that cannot be written
        ("uncompiled", ["in <lambda>"], ""),
    ):
        told = run(monkeypatch, capfd, "evaluate", "alexnet-v5e", "--solver", f"{module}:{name}", "--seconds", 1)
        assert told.code == 1
        found = [line for line in told.err.splitlines() if line.startswith("  File ")]
        assert [line.split(", ")[-1] for line in found] == lines
        assert all(f"{module}.py" in line for line in found)
        assert told.err.splitlines()[-1] == last or not last
    told = run(monkeypatch, capfd, "evaluate", "alexnet-v5e", "--solver", f"{module}:refused", "--seconds", 1)
    assert told.code == 2
    assert f"{module}.py:" in told.err.splitlines()[-1]


@pytest.mark.parametrize("line", ["raise ValueError(7)", "raise SystemExit(7)", "import no_such_thing.at_all", "1 +"])
def test_a_module_that_cannot_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    (tmp_path / "damaged_solvers.py").write_text(line, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=r"damaged_solvers.*(7|no_such_thing|invalid syntax)"):
        find_solver("damaged_solvers:f")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nonesuch", "unknown solver 'nonesuch', expected one of anneal"),
        ("{module}:absent", "has no absent"),
        ("{module}:number", "is not callable"),
        ("textwrap:dedent", r"too many positional arguments; it must take \(program, hierarchy"),
        ("no.such.module:f", "cannot import no.such.module"),
        ("greedy:3", "solver greedy takes no argument, got '3'"),
        ("muzero:", "expected something after the colon"),
    ],
)
def test_names_that_mean_nothing(module: str, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_solver(name.format(module=module))


def test_the_shipped_solvers_are_registered_like_any_other() -> None:
    assert {"xla", "none", "random", "greedy", "xla-heuristic", "anneal", "best", "muzero"} <= set(solver_names())
    for name in solver_names():
        if name != "xla":
            found, _ = find_solver(name)
            assert found.__doc__


BY_HAND = """
name = "mine"
[[layers]]
name = "host"
capacity_bytes = 256e9
bytes_per_second = 32e9
[[layers]]
name = "HBM"
capacity_bytes = 16e9
bytes_per_second = 700e9
[[layers]]
name = "VMEM"
capacity_bytes = 1_000_448
bytes_per_second = 1e13
alignment_bytes = 512
"""


def test_a_hierarchy_is_written_by_hand(tmp_path: Path) -> None:
    plain, whole, as_json = (tmp_path / name for name in ("plain.toml", "whole.toml", "plain.json"))
    plain.write_text(BY_HAND, encoding="utf-8")
    found = load_hierarchy(plain)
    assert [layer.capacity_bytes for layer in found.layers] == [256 * 10**9, 16 * 10**9, 1_000_448]
    assert [layer.alignment_bytes for layer in found.layers] == [1, 1, 512]
    links = [(link.pairs, link.bytes_per_second, link.shared_layer, link.max_in_flight) for link in found.links]
    assert links == [(((0, 1), (0, 2)), 32e9, 0, 40), (((1, 2),), 700e9, 1, 40)]
    link = (
        '[[links]]\nname = "PCIe"\npairs = [[0, 1], [0, 2], [1, 2]]\nbytes_per_second = 64e9\nlatency_seconds = 2e-6\n'
    )
    whole.write_text(BY_HAND + link, encoding="utf-8")
    (only,) = load_hierarchy(whole).links
    assert (only.name, only.bytes_per_second, only.shared_layer, only.latency_seconds) == ("PCIe", 64e9, None, 2e-6)
    as_json.write_text(json.dumps(tomllib.loads(BY_HAND)), encoding="utf-8")
    assert load_hierarchy(as_json) == found


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("name = ", "not TOML"),
        ("layers = 3\nname = 'x'", "layers: expected an array"),
        ("layers = [3]\nname = 'x'", r"layers\[0\]: expected a table with name, capacity_bytes"),
        (BY_HAND.replace("capacity_bytes = 16e9", "capacity = 16e9"), r"layers\[1\]: key 'capacity_bytes' is missing"),
        (BY_HAND.replace("256e9", "1.5"), "expected an integer >= 1, got 1.5"),
        ("speed = 3", "expected a hierarchy: name and layers"),
    ],
)
def test_what_is_no_hierarchy_says_why(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "bad.toml").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=reason):
        load_hierarchy(tmp_path / "bad.toml")


def test_a_hierarchy_of_one_s_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "chip.json"
    save_hierarchy(path, preset("host-v5e"))
    assert load_hierarchy(path) == preset("host-v5e")
    rows = run(monkeypatch, capfd, "evaluate", "alexnet-v5e", "--solver", "none", "--hierarchy", path, "--json").rows
    assert rows[0]["valid"]
    assert rows[0]["xla_judged_seconds"] is None  # the compiler's mapping is of another memory
    path.write_text(json.dumps({"format": "mallocgame-hierarchy", "version": 1}), encoding="utf-8")
    assert run(monkeypatch, capfd, "evaluate", "alexnet-v5e", "--solver", "none", "--hierarchy", path).code == 2
    bad = run(monkeypatch, capfd, "evaluate", "alexnet-v5e", "--solver", "none", "--hierarchy", "v9")
    assert "unknown hierarchy 'v9', expected one of v4" in bad.err
