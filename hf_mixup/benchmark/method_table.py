"""Tables of methods: by group, with the record of step costs, and which tasks each takes."""

from dataclasses import fields

from ..methods import Method, available, load
from ..methods._base import REQUIREMENTS
from ..tasks import available_tasks, load_task

HEAD = (
    "| method | name | group | needs | extra passes | alpha | step | checked against |",
    "|---|---|---|---|---|---|---|---|",
)


GROUPS = {
    "static": "random draws; no network",
    "saliency": "saliency of the images, or a teacher's features",
    "attention": "attention of a ViT",
    "hidden": "features inside the network",
    "learned": "a mask generator trained with the network",
    "loss": "another method, with another loss or other labels",
    "policy": "one of several methods for each batch",
    "baseline": "no mixing",
}


def method_list() -> str:
    """A Markdown table, one row a group: what its methods mix by, and their names."""
    names = {group: [name for name in available() if load(name).group == group] for group in GROUPS}
    rows = [
        f"| {group} | {words} | {', '.join(f'`{name}`' for name in names[group])} |" for group, words in GROUPS.items()
    ]
    return "\n".join(["| group | mixes by | methods |", "|---|---|---|", *rows])


def task_table(arguments: dict[str, dict]) -> str:
    """A Markdown table, one row a method and one column a task: "yes", or what the task does not provide.

    `arguments`: of each method, since requirements may depend on them.
    """
    tasks = [load_task(name) for name in available_tasks()]
    head = [f"| method | {' | '.join(task.name for task in tasks)} |", f"|---{'|---' * len(tasks)}|"]
    rows = []
    for name in available():
        method = load(name, **arguments.get(name, {}))
        cells = [_missing(method, task) or "yes" for task in tasks]
        rows.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join([*head, *rows])


def _missing(method: Method, task) -> str:
    missing = {key for part in method.modules() if isinstance(part, Method) for key in part.requires - task.provides}
    return "refused: requires " + " and ".join(REQUIREMENTS[key] for key in sorted(missing)) if missing else ""


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
    return "any batch" if on_any_batch(method) else "a training step"


def on_any_batch(method: Method) -> bool:
    """Whether a method mixes batches without a network and a loss of its own, for example in a collator."""
    return not (method.needs_net or method.needs_forward)
