"""What the commands share: a parser whose errors are one line, and tables of text."""

import argparse
import shutil
import sys
from collections.abc import Sequence

from ..errors import ConfigError


class Parser(argparse.ArgumentParser):
    """argparse's parser; `--top-k` and `--top_k` are the same option, and an error is a ConfigError of one line."""

    def __init__(self, *args, **kwargs):
        self.spellings: dict[str, str] = {}
        super().__init__(*args, **kwargs)

    def add_argument(self, *args, **kwargs) -> argparse.Action:
        action = super().add_argument(*args, **kwargs)
        self.spellings |= {option.replace("-", "_"): option for option in action.option_strings}
        return action

    def parse_known_args(self, args=None, namespace=None):
        words = sys.argv[1:] if args is None else args
        return super().parse_known_args([self._known_spelling(word) for word in words], namespace)

    def error(self, message: str):
        raise ConfigError(f"{self.prog}: {message}. Its options: {self.prog} --help")

    def _known_spelling(self, word: str) -> str:
        option, equals, value = word.partition("=")
        known = self.spellings.get(option.replace("-", "_")) if option.startswith("--") else None
        return word if known is None else known + equals + value


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 0) -> str:
    """Aligned columns; on a terminal, lines are cut to its width. `left`: spaces before each line."""
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    texts = [" " * left + "  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines]
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns
        texts = [text if len(text) <= width else f"{text[: width - 3]}..." for text in texts]
    return "\n".join(texts)
