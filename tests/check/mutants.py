"""Right answers with one small change each, and whether the checks notice.

    python -m tests.check.mutants            all checks, with every survivor's changed line
    python -m tests.check.mutants patchify   one

A mutant is made from a right answer's source: an operator, a number, a name in an einops pattern,
an argument, a sign or a statement is changed or taken away. A survivor passes its check on every
seed. Some survivors do what the right answer does: ``EQUIVALENT`` has the reasons.
"""

from __future__ import annotations

import ast
import copy
import inspect
import itertools
import linecache
import re
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator

from mixer_lite import check
from tests.check.zoo import ANSWERS, Answer

SEEDS = (0, 1)

SWAPS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Pow: ast.Mult, ast.MatMult: ast.Mult, ast.Mod: ast.FloorDiv,
    ast.Lt: ast.GtE, ast.Gt: ast.LtE, ast.LtE: ast.Gt, ast.GtE: ast.Lt,
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
}  # fmt: skip

# What survivors have in common that compute what the right answer computes, or differ from it in
# something that the exercise leaves free: a pattern of "answer: changed line", and the reason.
EQUIVALENT = {
    r"^draw_.*(subplots|figsize|fontsize|add_subplot|Figure\(\)|columns=|montage\()": "layout",
    r"^draw_.*(set_title|set_ylabel|\.text\(|set_xlim|colorbar|subfigures|zip\(|: pass$)": "layout",
    r"^draw_.*(halfrange|figure, top = |ml\.figures|cmap=colours|gw \+ 0|u \* gw$)": "layout",
    r"^draw_.*ImageGrid": "layout",
    r"^draw_one_large_image: plt\.imshow\(big": "matplotlib's own choice is sharp at this size",
    r"strict=|zip\(self\.norms1, self\.norms2, self\.mlps1, self\.mlps2\)|grad\(loss, params\)\)": (
        "the lengths agree, so zip has nothing to complain of"
    ),
    r"transpose\(2, 1\)|swapaxes\((1, 2|2, 1)\)|view\(c, b,": "two axes named in the other order",
    r"in_float64: pass$": "computed in the input's own type in place of float64",
    r"(unpatchify|fold)_with_einops": "einops infers the size that is not given",
    r"params_of_timm: ratios": "the half only guards against rounding",
    r"reshape\(len\(arrays": "any negative size is inferred",
    r"predict_with_argsort: (pass|powers)": "a constant factor cancels in the softmax",
    r"argsort\(p, desc|softmax\(model\(image|log_softmax\(|\.sum\(-1\)|softmax\(dim=1\)\.topk": (
        "the last axis is the only other one, or the default"
    ),
    r"predict_one_at_a_time: return": "whole numbers are int64 anyway",
    r"BlockWithTorchsEps: pass": "the course's own eps",
    r"loss = -(p|\(p - 1e-09\))\.log": "so small a number changes nothing",
    r"softmax\(1\)\[": "the last axis is the only other one",
    r"step_that_clears_afterwards": "cleared gradients are zero or None",
    r"Dropout\(|Dropout": "the rate of a dropout does not show in evaluation",
    r"addcmul": "scale and shift are random numbers that may change places with their names",
    r"MixerAsTimm: pass": "a head of zeros is only where it starts",
    r"Rearrange\('b c \(h p1\) \(w p2\)": "the order inside a patch renames the stem's weights",
    r"self\.norms2, self\.norms1": "the two lists of norms change their names",
    r"order_by_|order_in_numpy": "the planted means are small: every measure of frequency may pass",
    r"pair_(with_one|by_)": "the order inside a pair, and where the search begins, are free",
    r"smoothness_in_float64": "all filters have the same size",
    r"ForSquares|for_squares|image_size\[([01])\] .*image_size\[\1\]": (
        "code that stops where height and width differ passes with a remark"
    ),
    r"lens_with_hooks: pass": "hooks are left on the learner's own copy of the model",
}


def patterns(text: str) -> Iterator[str]:
    """An einops pattern with two neighbouring names of its right side exchanged."""
    left, arrow, right = text.partition("->")
    if not arrow:
        return
    names = list(re.finditer(r"[A-Za-z_]\w*", right))
    for a, b in itertools.pairwise(names):
        swapped = right[: a.start()] + b[0] + right[a.end() : b.start()] + a[0] + right[b.end() :]
        yield left + arrow + swapped


def changes(node: ast.AST) -> Iterator[ast.AST | None]:
    """Nodes to stand in place of this one; ``None`` takes a statement away."""
    if isinstance(node, ast.BinOp):
        if type(node.op) in SWAPS:
            yield ast.BinOp(node.left, SWAPS[type(node.op)](), node.right)
        if isinstance(node.op, (ast.Add, ast.Sub)):
            yield node.left
            yield node.right
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
        yield ast.Compare(node.left, [SWAPS[type(node.ops[0])](), *node.ops[1:]], node.comparators)
    elif isinstance(node, ast.Constant):
        if isinstance(node.value, bool):
            yield ast.Constant(not node.value)
        elif isinstance(node.value, int):
            yield ast.Constant(node.value + 1)
            if node.value > 0:
                yield ast.Constant(node.value - 1)
        elif isinstance(node.value, float):
            yield ast.Constant(node.value * 2 + 0.1)
        elif isinstance(node.value, str):
            yield from map(ast.Constant, patterns(node.value))
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield node.operand
    elif isinstance(node, ast.Call):
        for i, keyword in enumerate(node.keywords):
            if keyword.arg not in ("eps",):
                rest = node.keywords[:i] + node.keywords[i + 1 :]
                yield ast.Call(node.func, node.args, rest)
        if len(node.args) >= 2:
            yield ast.Call(node.func, [node.args[1], node.args[0], *node.args[2:]], node.keywords)
    elif isinstance(node, ast.Return) and node.value is not None:
        yield ast.Return(ast.UnaryOp(ast.USub(), node.value))
    elif isinstance(node, (ast.Assign, ast.AugAssign)) or (
        isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant)
    ):
        yield None


def variants(tree: ast.Module) -> Iterator[ast.Module]:
    """Every tree that differs from this one by one change."""
    places = [
        (number, field, index)
        for number, parent in enumerate(ast.walk(tree))
        for field, value in ast.iter_fields(parent)
        if field not in ("decorator_list", "args", "annotation") or isinstance(parent, ast.Call)
        for index in (range(len(value)) if isinstance(value, list) else [None])
    ]
    for number, field, index in places:
        parent = next(itertools.islice(ast.walk(tree), number, None))
        value = getattr(parent, field)
        node = value if index is None else value[index]
        if not isinstance(node, ast.AST):
            continue
        for i, _ in enumerate(changes(node)):
            fresh = copy.deepcopy(tree)
            twin = next(itertools.islice(ast.walk(fresh), number, None))
            old = getattr(twin, field) if index is None else getattr(twin, field)[index]
            new = next(itertools.islice(changes(old), i, None))
            if index is None:
                setattr(twin, field, new)
            elif new is None:
                getattr(twin, field)[index] = ast.Pass()
            else:
                getattr(twin, field)[index] = new
            yield ast.fix_missing_locations(fresh)


def mutants(one: Answer) -> Iterator[tuple[str, object]]:
    """The changed line and the changed function or class, for every change of a right answer."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(one.answer)))
    tree.body[0].decorator_list = []
    before = ast.unparse(tree).split("\n")
    space = vars(sys.modules[one.answer.__module__])
    for number, changed in enumerate(variants(tree)):
        text = ast.unparse(changed)
        lines = text.split("\n")
        new = [b for a, b in itertools.zip_longest(before, lines) if a != b and b]
        if not new:
            continue
        name = f"<mutant {one.name} {number}>"
        linecache.cache[name] = (len(text), None, lines, name)
        scope = dict(space)
        try:
            exec(compile(text, name, "exec"), scope)
        except Exception:
            continue  # not a program
        yield f"{one.name}: {new[0].strip()}", scope[one.answer.__name__]


def survives(one: Answer, mutant: object) -> bool:
    """Whether a changed answer passes its check on every seed."""
    one_check = getattr(check, one.check)
    return all(one_check(mutant, seed=seed, seconds=3) for seed in SEEDS)


def count(names: list[str]) -> tuple[Counter, Counter, list[tuple[str, str]]]:
    """Mutants by check, caught ones by check, and the survivors as ``(check, changed line)``."""
    made: Counter = Counter()
    caught: Counter = Counter()
    left = []
    for one in ANSWERS:
        if one.mistake is not None or (names and one.check not in names):
            continue
        for line, mutant in mutants(one):
            made[one.check] += 1
            if survives(one, mutant):
                left.append((one.check, line))
            else:
                caught[one.check] += 1
    return made, caught, left


def reason(line: str) -> str | None:
    """Why a survivor computes what the right answer computes, if that is known."""
    return next((why for mark, why in EQUIVALENT.items() if re.search(mark, line)), None)


def main() -> None:
    """Print the table."""
    import tests.check.test_zoo  # noqa: F401  registers all answers

    made, caught, left = count(sys.argv[1:])
    for name in made:
        print(f"{name:20} {made[name]:5} mutants {caught[name]:5} caught")
    total, share = sum(made.values()), sum(caught.values()) / max(1, sum(made.values()))
    print(f"{'all':20} {total:5} mutants {sum(caught.values()):5} caught, {share:.1%}")
    same = sum(reason(line) is not None for _, line in left)
    caught_share = sum(caught.values()) / max(1, total - same)
    print(f"{same} survivors do no wrong; of the other mutants {caught_share:.1%} are caught")
    for name, line in left:
        print(f"survives {name}: {line}   [{reason(line) or 'NOT EXPLAINED'}]")


if __name__ == "__main__":
    main()
