"""Update the generated parts of README.md and hub_cards/: python scripts/update_tables.py"""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests" / "methods"))

from rows import ROWS  # noqa: E402

from hf_mixup.benchmark.method_table import method_list, method_table, task_table  # noqa: E402
from hf_mixup.benchmark.report import input_table, speed_table  # noqa: E402

SPEED = ROOT / "hub_cards" / "speed"
PAGES = (ROOT / "README.md", ROOT / "hub_cards" / "methods.md", SPEED / "README.md")
PART = "(<!-- {name} -->\n).*?(<!-- end of {name} -->)"


def parts() -> dict[str, str]:
    """The generated parts by their names."""
    costs, speed, inputs = (json.loads((SPEED / f"{name}.json").read_text()) for name in ("step", "batch", "input"))
    golden = {name: row.get("golden", "") for name, row in ROWS.items()}
    return {
        "list of methods": method_list(),
        "methods": method_table(costs["methods"], golden),
        "tasks": task_table({name: row.get("args", {}) for name, row in ROWS.items()}),
        "speed": speed_table(speed),
        "input": input_table(inputs),
    }


def updated(text: str, generated: dict[str, str]) -> str:
    """The text of a page with updated generated parts."""
    for name, part in generated.items():
        pattern = PART.format(name=name)
        text = re.sub(pattern, lambda found, part=part: f"{found[1]}{part}\n{found[2]}", text, flags=re.DOTALL)
    return text


if __name__ == "__main__":
    generated = parts()
    for page in PAGES:
        before = page.read_text()
        after = updated(before, generated)
        page.write_text(after)
        print(f"{page.relative_to(ROOT)}: {'unchanged' if after == before else 'updated'}")
