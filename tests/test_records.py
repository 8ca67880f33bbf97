"""Numbers that recipes and README claim are those of the run records."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RECORDS = ROOT / "hub_cards" / "records"


def records(name: str) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted((RECORDS / name).glob("*.json"))]


@pytest.mark.parametrize("path", sorted(RECORDS.rglob("*.json")), ids=lambda path: path.stem)
def test_a_record_is_of_a_finished_run_of_a_known_commit(path):
    record = json.loads(path.read_text())
    assert record["status"] == "finished" and record["schema_version"] == 1
    assert re.fullmatch(r"[0-9a-f]{40}", record["commit"])


def test_the_quick_start_claims_what_its_records_say():
    runs = records("quickstart")
    top1 = sorted(run["final"]["top1"] for run in runs)
    seconds = sorted(run["wall_s"] for run in runs)
    assert sorted(run["seed"] for run in runs) == [0, 1, 2]
    said = (ROOT / "recipes" / "quickstart.yaml").read_text() + (ROOT / "README.md").read_text()
    low, mean, high = (f"{value:.3f}".removeprefix("0") for value in (top1[0], sum(top1) / len(top1), top1[-1]))
    assert f"{mean} top-1 ({low} to {high}" in said and f"{low} to {high} top-1" in said
    assert said.count(f"{seconds[0]:.0f} to {seconds[-1]:.0f} s of training") == 2
