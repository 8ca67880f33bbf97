"""Escape text of unknown origin for a Markdown page or a line of YAML."""

import re
import unicodedata

SPECIAL = re.compile(r"[\\`*_{}\[\]()<>#+!|~&:@$^]|\.(?=\S)")
# characters that change the direction of text or are invisible; joiners are kept, since emoji and some scripts use them
HIDDEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
JOINERS = "\u200c\u200d"
MAX_LENGTH = 200


def clean(value: object) -> str:
    """One line of visible text, at most 200 characters; line breaks and invisible characters become spaces."""
    visible = (" " if _hidden(letter) else letter for letter in str(value))
    text = " ".join("".join(visible).split())
    return text if len(text) <= MAX_LENGTH else f"{text[: MAX_LENGTH - 3]}..."


def _hidden(letter: str) -> bool:
    return letter not in JOINERS and unicodedata.category(letter) in HIDDEN


def escaped(value: object) -> str:
    """`clean` text that Markdown shows literally: without links, tags, tables or emphasis."""
    return SPECIAL.sub(lambda match: f"\\{match[0]}", clean(value)).replace("\\<", "&lt;").replace("\\&", "&amp;")


def code(text: str, language: str) -> str:
    """A fenced code block that the text cannot close."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"
