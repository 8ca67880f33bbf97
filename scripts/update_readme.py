"""Write the generated parts of README.md anew: python scripts/update_readme.py"""

import re
from pathlib import Path

from hf_mixup.table import method_table

README = Path(__file__).parent.parent / "README.md"
PART = "(<!-- {name} -->\n).*?(\n<!-- end of {name} -->)"


def updated(text: str) -> str:
    """The README's text with its table of methods made anew."""
    return re.sub(
        PART.format(name="methods"), lambda found: found[1] + method_table() + found[2], text, flags=re.DOTALL
    )


if __name__ == "__main__":
    README.write_text(updated(README.read_text()))
    print(f"Updated {README.name}")
