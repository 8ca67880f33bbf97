"""`hf-mixup recipes [WORD]`: the recipes of the package."""

from ..config.catalog import packaged_recipes
from ..config.parser import recipe_names
from ..errors import ConfigError, did_you_mean
from ._errors import exit_status
from ._parser import Parser, table


def main(argv: list[str]) -> int:
    """Return the exit status: 0, or 2 if no recipe has the word."""
    return exit_status(lambda: print(text(_parser().parse_args(argv).word)))


def _parser() -> Parser:
    parser = Parser(prog="hf-mixup recipes", description="List the recipes of the package.")
    parser.add_argument("word", nargs="?", default="", help="only those with this word in name, method or description")
    return parser


def text(word: str) -> str:
    """The table of the recipes with `word`; ConfigError if there is none."""
    found = packaged_recipes(word)
    if not found:
        raise ConfigError(
            f"No recipe has {word!r} in its name, method or description.{did_you_mean(word, recipe_names())}"
        )
    return table(("recipe", "method", "description"), [(info.name, info.method, info.description) for info in found])
