"""`hf-mixup tasks [NAME]`: a table of the tasks, or the description of one."""

from ..benchmark.descriptions import task_description, task_summaries
from ._descriptions import argument_table, facts
from ._errors import exit_status
from ._parser import Parser, table

HEAD = ("task", "labels", "metrics", "what is learned")
FACTS = ("labels", "metrics", "best", "views", "provides")


def main(argv: list[str]) -> int:
    """Return the exit status: 0, or 2 for an unknown task."""
    return exit_status(lambda: print(text(_parser().parse_args(argv).name)))


def _parser() -> Parser:
    parser = Parser(prog="hf-mixup tasks", description="List the tasks, or describe one.")
    parser.add_argument("name", nargs="?", help="a task, or one of your own as module:Class or file.py:Class")
    return parser


def text(name: str | None) -> str:
    """The table of all tasks, or the description of task `name`."""
    if name is None:
        return table(HEAD, task_summaries())
    found = task_description(name)
    title = f"{found['name']}: {found['title']}" if found["title"] else found["name"]
    arguments = argument_table(found["arguments"], "--task_args.")
    return f"{title}\n{found['summary']}\n\n{facts({key: str(found[key]) for key in FACTS})}\n\n{arguments}"
