"""The table of methods, made from the methods themselves."""

from dataclasses import fields

from .methods import Method, available, load

HEAD = "| method | name | group | works on | alpha |\n|---|---|---|---|---|"


def method_table() -> str:
    """A Markdown table, one row a method: name, print name with its paper, group, what it needs, default alpha."""
    return "\n".join([HEAD, *(_row(name, load(name)) for name in available())])


def _row(name: str, method: Method) -> str:
    link = f"[{method.title}]({method.link})" if method.link else method.title
    alpha = method.alpha if "alpha" in {field.name for field in fields(method)} else None
    return f"| `{name}` | {link} | {method.group} | {needs(method)} | {'' if alpha is None else f'{alpha:g}'} |"


def needs(method: Method) -> str:
    """What a method must be given: batches alone, or the network, inside a training step or not."""
    if method.needs_net:
        return "the network"
    return "a training step" if method.needs_forward else "any batch"
