"""The small changes that are made to a module, one at a time."""

import ast
from dataclasses import dataclass
from itertools import islice

_COMPARE = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
_BINARY = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}
_CALLS = {"min": "max", "max": "min", "any": "all", "all": "any"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One change to a module.

    ``function`` is the name of the outermost function whose body it changes ("Class.method"), None where the change is
    seen on import: constants, defaults, decorators.
    """

    source: str
    line: int
    change: str
    function: str | None


Place = tuple[int, int]  # the node's number in the walk through the tree, and which of its changes


def places(source: str) -> list[Place]:
    """Return where a module can be changed."""
    nodes = enumerate(ast.walk(ast.parse(source)))
    return [(number, choice) for number, node in nodes for choice in range(_choices(node))]


def mutant(source: str, place: Place) -> Mutant:
    """Make one change."""
    tree, other = ast.parse(source), ast.parse(source)
    node, twin = (next(islice(ast.walk(root), place[0], None)) for root in (tree, other))
    _change(twin, place[1])
    ast.fix_missing_locations(other)
    return Mutant(
        source=ast.unparse(other),
        line=getattr(node, "lineno", 0),
        change=f"{ast.unparse(node)[:60]} -> {ast.unparse(twin)[:60]}",
        function=_owners(tree).get(id(node)),
    )


def _owners(tree: ast.Module) -> dict[int, str]:
    """Return the outermost function of each node in a body, by the node's id."""
    found: dict[int, str] = {}

    def visit(node: ast.AST, name: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                for statement in child.body:
                    found.update((id(inner), name + child.name) for inner in ast.walk(statement))
            elif isinstance(child, ast.ClassDef):
                visit(child, f"{name}{child.name}.")

    visit(tree, "")
    return found


def _choices(node: ast.AST) -> int:
    """Return how many changes a node has."""
    if isinstance(node, ast.Compare):
        return sum(type(op) in _COMPARE for op in node.ops)
    if isinstance(node, ast.BinOp):
        return int(type(node.op) in _BINARY and not isinstance(node.left, ast.Constant))
    if isinstance(node, ast.BoolOp):
        return 1 + len(node.values)
    if isinstance(node, (ast.If, ast.While, ast.IfExp)):
        return 1
    if isinstance(node, ast.Call):
        return int(isinstance(node.func, ast.Name) and node.func.id in _CALLS)
    if isinstance(node, ast.UnaryOp):
        return int(isinstance(node.op, (ast.Not, ast.USub)))
    if isinstance(node, ast.Constant):
        return int(type(node.value) in (int, bool))
    return 0


def _change(node: ast.AST, choice: int) -> None:
    if isinstance(node, ast.Compare):
        places = [k for k, op in enumerate(node.ops) if type(op) in _COMPARE]
        node.ops[places[choice]] = _COMPARE[type(node.ops[places[choice]])]()
    elif isinstance(node, ast.BinOp):
        node.op = _BINARY[type(node.op)]()
    elif isinstance(node, ast.BoolOp) and choice == 0:
        node.op = ast.And() if isinstance(node.op, ast.Or) else ast.Or()
    elif isinstance(node, ast.BoolOp):
        del node.values[choice - 1]
        if len(node.values) == 1:
            node.values = [node.values[0], node.values[0]]
    elif isinstance(node, (ast.If, ast.While, ast.IfExp)):
        node.test = ast.UnaryOp(ast.Not(), node.test)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        node.func.id = _CALLS[node.func.id]
    elif isinstance(node, ast.UnaryOp):
        node.op = ast.UAdd() if isinstance(node.op, ast.USub) else ast.Not()
        if isinstance(node.op, ast.Not):
            node.operand = ast.UnaryOp(ast.Not(), node.operand)
    elif isinstance(node, ast.Constant):
        node.value = (not node.value) if isinstance(node.value, bool) else node.value + 1  # type: ignore[operator]
