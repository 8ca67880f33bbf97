"""Text from anywhere, made safe to stand in a Markdown page or a line of YAML."""

import re
import unicodedata

SPECIAL = re.compile(r"[\\`*_{}\[\]()<>#+!|~&:@$^]|\.(?=\S)")
# what turns the direction of text or cannot be seen; joiners stay, since emoji and scripts are written with them
HIDDEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
JOINERS = "\u200c\u200d"
LONGEST = 200


def clean(value: object) -> str:
    """One line of visible text, at most 200 characters: whatever breaks lines or hides is a space."""
    seen = (" " if _hidden(letter) else letter for letter in str(value))
    text = " ".join("".join(seen).split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def _hidden(letter: str) -> bool:
    return letter not in JOINERS and unicodedata.category(letter) in HIDDEN


def escaped(value: object) -> str:
    """`clean` text that Markdown shows as it is: no link, no tag, no table, no emphasis comes of it."""
    return SPECIAL.sub(lambda found: f"\\{found[0]}", clean(value)).replace("\\<", "&lt;").replace("\\&", "&amp;")


def code(text: str, language: str) -> str:
    """A block of code which the text cannot end."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"
