"""Read JSON and YAML of unknown origin: plain data of bounded size, and one line about what is wrong with a file."""

import json
from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 16 * 2**20
MAX_NODES = 200_000  # values of a YAML text, where each alias counts as all that it stands for


class Damaged(ValueError):
    """A file that cannot be read. The message is the reason, as the end of a sentence."""


def read_text(file: Path) -> str:
    """The UTF-8 text of a file; Damaged unless it is a readable file of at most 16 MiB."""
    try:
        if file.stat().st_size > MAX_BYTES:
            raise Damaged(f"it is larger than {MAX_BYTES >> 20} MiB")
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise Damaged(error.strerror or type(error).__name__) from error
    except UnicodeError as error:
        raise Damaged("it is not UTF-8 text") from error


def read_json(file: Path) -> dict[str, Any]:
    """The mapping in a JSON file; Damaged if it holds anything else or cannot be read."""
    text = read_text(file)
    if not text.strip():
        raise Damaged("it is empty")
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise Damaged(f"it is not valid JSON, line {error.lineno}, column {error.colno}") from error
    except (ValueError, RecursionError) as error:  # a number of too many digits, too many brackets
        raise Damaged(f"it is not valid JSON ({type(error).__name__})") from error
    if not isinstance(values, dict):
        raise Damaged(f"it holds a {type(values).__name__}, not a mapping")
    return values


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses duplicate keys, which YAML forbids, and texts that stand for too many values."""

    def __init__(self, stream):
        super().__init__(stream)
        self.size, self.sizes = 0, {}  # nodes so far, and of each node

    def compose_node(self, parent, index):
        before, is_alias = self.size, self.check_event(yaml.AliasEvent)
        mark = self.peek_event().start_mark
        node = super().compose_node(parent, index)
        if is_alias and id(node) not in self.sizes:
            raise yaml.composer.ComposerError(None, None, "an alias refers to a value that contains it", mark)
        self.size += self.sizes[id(node)] if is_alias else 1
        if self.size > MAX_NODES:
            raise yaml.composer.ComposerError(None, None, f"it has more than {MAX_NODES:,} values", mark)
        if not is_alias:
            self.sizes[id(node)] = self.size - before
        return node

    def compose_mapping_node(self, anchor):
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                problem = f"the key {key.value!r} is given twice"
                raise yaml.composer.ComposerError(None, None, problem, key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else key)
        return node


def parse_yaml(text: str) -> Any:
    """The value of a YAML text: plain data only, no code runs. Damaged, without quoting the text, if it is not valid.

    The message begins with the place, as ", line 2, column 1: ".
    """
    try:
        if len(text) > MAX_BYTES:
            raise Damaged(f": it is larger than {MAX_BYTES >> 20} MiB")
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        # the message does not quote the lines, because they may contain a secret
        mark = error.problem_mark
        line = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise Damaged(f"{line}: this is not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, ValueError, LookupError, RecursionError) as error:
        if isinstance(error, Damaged):
            raise
        raise Damaged(f": this is not valid YAML ({type(error).__name__})") from None
