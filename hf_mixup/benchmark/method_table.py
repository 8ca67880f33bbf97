"""The README's table of methods, from their class attributes and the record of step costs."""

from dataclasses import fields

from ..methods import Method, available, load

HEAD = (
    "| method | name | group | needs | extra passes | alpha | step | checked against |",
    "|---|---|---|---|---|---|---|---|",
)


def method_table(costs: dict[str, dict], golden: dict[str, str]) -> str:
    """A Markdown table, one row a method.

    `costs`: `extra_passes` and `relative` cost of a training step by method, from the record of
    `hf_mixup.benchmark.step`. `golden`: the code that a method's tests compare with, by method. Missing values give
    empty cells.
    """
    return "\n".join([*HEAD, *(_row(name, load(name), costs.get(name), golden.get(name, "")) for name in available())])


def _row(name: str, method: Method, cost: dict | None, golden: str) -> str:
    title = f"[{method.title}]({method.link})" if method.link else method.title
    alpha = method.alpha if "alpha" in {field.name for field in fields(method)} else None
    passes, step = ("", "") if cost is None else (f"{cost['extra_passes']:g}", f"{cost['relative']:.2f}")
    cells = f"`{name}`", title, method.group, needs(method), passes, "" if alpha is None else f"{alpha:g}", step, golden
    return f"| {' | '.join(cells)} |"


def needs(method: Method) -> str:
    """What a method requires: the network, a training step, or only a batch."""
    if method.needs or method.needs_net:
        return method.needs or "the network"
    return "a training step" if method.needs_forward else "any batch"
