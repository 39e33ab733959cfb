"""``mallocgame fit`` from outside: its table, its files, and what it refuses."""

import sys
from collections.abc import Callable
from pathlib import Path

import jax
import pytest

import mallocgame
from tests.cli.run import Result
from tests.workloads.checkpointing.steps import STEPS

Run = Callable[..., Result]

MODULE = """
import jax, jax.numpy as jnp
from tests.workloads.checkpointing.steps import STEPS, _f32

_named, _flat = STEPS["named_scan"](), STEPS["unrolled"]()
named = jax.jit(_named.function, donate_argnums=0)
named.example_args = None
def named_args(): return _named.arguments
def flat_args(): return _flat.arguments
def flat(*a): return _flat.function(*a)
def forward(x): return x * 2
def integers(x): return jax.grad(lambda v: jnp.sum(v))(x)
def broken(x): raise RuntimeError("mine\\nand \\x1b[31mred")
def small(w, x): return jax.grad(lambda w: jnp.sum(jnp.tanh(jnp.tanh(x @ w) @ w) ** 2))(w)
def leaves(x): raise SystemExit(3)
"""


@pytest.fixture(name="module")
def module_fixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "fit_me.py").write_text(MODULE.replace("named.example_args = None\n", ""))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "fit_me", raising=False)
    return tmp_path


def test_plans_a_step_and_writes_everything(cli: Run, module: Path) -> None:
    command = ("fit", "fit_me:named,named_args", "--budget", "520kB", "--chip", "v5e", "--seconds", "3", "--curve", "2")
    files = ("--out", "p.json", "--plot", "p.png", "--trace", "t.json")
    found = cli(*command, *files, "--solver", "greedy", "--values", "--json")
    assert found.code == 0, found.err
    kinds = [row["kind"] for row in found.rows]
    assert kinds.count("policy") >= 7
    assert kinds.count("curve") >= 1
    assert "value" in kinds
    plan = next(row for row in found.rows if row["kind"] == "plan")
    assert plan["fits"]
    assert plan["predicted_peak_bytes"] <= 520_000
    fitting = [row for row in found.rows if row["kind"] == "policy" and row["fits"]]
    assert all(plan["predicted_seconds"] <= row["predicted_seconds"] for row in fitting)
    assert (module / "p.png").read_bytes().startswith(b"\x89PNG")
    assert mallocgame.load_trace(module / "t.json").program.num_steps > 0
    call = STEPS["named_scan"]()
    policy = mallocgame.load_checkpoint_policy(module / "p.json")
    planned = jax.eval_shape(policy.apply(call.function), *call.arguments)
    assert jax.tree.map(lambda a: a.shape, planned[0]) == jax.tree.map(lambda a: a.shape, call.arguments[0])


def test_the_table_shows_plan_and_standard_policies(cli: Run, module: Path) -> None:
    found = cli("fit", "fit_me:flat,flat_args", "--chip", "h100", "--seconds", "2")
    assert found.code == 0, found.err
    for word in ("no checkpointing", "recompute all", "dots_with_no_batch_dims_saveable", "plan"):
        assert word in found.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fit_me:named,named_args", "--budget", "1kB"), "the least that would do is"),
        (("fit_me:forward", "--args", "f32[4]"), "takes no gradient"),
        (("fit_me:integers", "--args", "s32[4]"), "grad requires real- or complex-valued inputs"),
        (("fit_me:named",), "give --args or"),
        (("fit_me:named,named_args", "--budget", "lots"), "expected bytes such as 40GB"),
        (("fit_me:named,named_args", "--budget", "1e999GB"), "expected bytes such as 40GB"),
        (("fit_me:broken", "--args", "f32[4]"), "RuntimeError: mine and \\x1b[31mred (fit_me.py:12, in broken)"),
        (("fit_me:leaves", "--args", "f32[4]"), "cannot be traced: SystemExit: 3 (fit_me.py:14, in leaves)"),
        (("fit_me:named,named_args", "--out", "p.json", "--trace", "./p.json"), "p.json: would be written twice"),
        (("fit_me:named,named_args", "--solver", "nobody"), "unknown solver 'nobody'"),
        (("fit_me:named,named_args", "--chip", "z80"), "unknown chip 'z80'"),
        (("fit_me:named,named_args", "--out", "p.txt"), "expected a name that ends in .json"),
        (("fit_me:named,named_args", "--calibration", "missing.json"), "missing.json"),
        (("fit_me:named,named_args", "--chip", "h100", "--read-back"), "--read-back compiles ahead of time for"),
    ],
)
def test_bad_input_is_one_line(cli: Run, module: Path, arguments: tuple[str, ...], message: str) -> None:
    found = cli("fit", *arguments)
    assert found.code == 2
    assert message in found.err
    assert len(found.err.splitlines()) == 1


def test_what_was_planned_stands_where_nothing_can_be_placed(cli: Run, module: Path) -> None:
    command = ("fit", "fit_me:small", "--args", "f32[64,64],f32[8,64]", "--seconds", "2")
    found = cli(*command, "--out", "p.json", "--trace", "t.json")
    assert found.code == 2
    assert "nothing to place" in found.err.splitlines()[-1]
    assert "plan" in found.out
    mallocgame.load_checkpoint_policy(module / "p.json")
    assert not (module / "t.json").exists()
