"""setup.cfg lists every package."""

import configparser
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_every_package_is_listed():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    listed = set(setup["options"]["packages"].split())
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "hf_mixup").rglob("*.py")}
    found = {".".join(folder.parts) for folder in folders}
    assert found | {"hf_mixup.data.sample", "hf_mixup.recipes", "hf_mixup.hub_cards"} == listed
