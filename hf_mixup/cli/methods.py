"""`hf-mixup methods [NAME]`: a table of the methods, or the description of one."""

from ..benchmark.descriptions import method_description, method_summaries
from ._descriptions import argument_table, facts
from ._errors import exit_status
from ._parser import Parser, table

HEAD = ("method", "name", "group", "needs", "what it does")


def main(argv: list[str]) -> int:
    """Return the exit status: 0, or 2 for an unknown method."""
    return exit_status(lambda: print(text(_parser().parse_args(argv).name)))


def _parser() -> Parser:
    parser = Parser(prog="hf-mixup methods", description="List the mixup methods, or describe one.")
    parser.add_argument("name", nargs="?", help="a method, or one of your own as module:Class or file.py:Class")
    return parser


def text(name: str | None) -> str:
    """The table of all methods, or the description of method `name`."""
    if name is None:
        return table(HEAD, method_summaries())
    found = method_description(name)
    title = f"{found['name']}: {found['title']}" if found["title"] else found["name"]
    lines = {
        "group": found["group"],
        "paper": found["paper"] or "none",
        "needs": found["needs"],
        "works in": found["works_in"],
        "tasks": found["tasks"],
        **_cost(found["cost"], found["needs"].startswith("a teacher")),
    }
    arguments = argument_table(found["arguments"], "--method_args.")
    return f"{title}\n{found['summary']}\n\n{facts(lines)}\n\n{arguments}"


def _cost(cost: dict | None, has_teacher: bool) -> dict[str, str]:
    if cost is None:
        return {"step time": "not measured; python -m hf_mixup.benchmark.step measures it"}
    network = f"{cost['network']}{', also as teacher' if has_teacher else ''}"
    return {
        "step time": f"{cost['relative']:.2f} times that without mixing ({network}; one CPU core)",
        "extra passes": f"{cost['extra_passes']:g} forward passes of the network per step (backward counts as two)",
    }
