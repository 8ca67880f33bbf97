"""Update the generated parts of README.md: python scripts/update_readme.py"""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests" / "methods"))

from rows import ROWS  # noqa: E402

from hf_mixup.benchmark.method_table import method_table  # noqa: E402
from hf_mixup.benchmark.report import input_table, speed_table  # noqa: E402

README = ROOT / "README.md"
SPEED = ROOT / "hub_cards" / "speed"
PART = "(<!-- {name} -->\n).*?(<!-- end of {name} -->)"


def updated(text: str) -> str:
    """The README's text with updated generated parts."""
    costs, speed = (json.loads((SPEED / f"{name}.json").read_text()) for name in ("step", "batch"))
    golden = {name: row.get("golden", "") for name, row in ROWS.items()}
    parts = {"methods": method_table(costs["methods"], golden), "speed": speed_table(speed)}
    if (SPEED / "input.json").is_file():
        parts["input"] = input_table(json.loads((SPEED / "input.json").read_text()))
    for name, part in parts.items():
        text = re.sub(
            PART.format(name=name), lambda found, part=part: f"{found[1]}{part}\n{found[2]}", text, flags=re.DOTALL
        )
    return text


if __name__ == "__main__":
    README.write_text(updated(README.read_text()))
    print(f"Updated {README.name}")
