"""Numbers in recipes and README are those of the run records."""

import json
import math
import re
import statistics
from pathlib import Path

import pytest
from fixtures.loops import check_each

from hf_mixup import available
from hf_mixup.benchmark import speed

ROOT = Path(__file__).parent.parent
RECORDS = ROOT / "hub_cards" / "records"
T_OF_FOUR = 2.776  # two-sided 5 % point of Student's t with 4 degrees of freedom


def records(name: str) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted((RECORDS / name).glob("*.json"))]


def test_every_record_is_of_a_finished_run_with_a_commit():
    def check(path):
        record = json.loads(path.read_text())
        assert record["status"] == "finished" and record["schema_version"] == 1
        assert re.fullmatch(r"[0-9a-f]{40}", record["commit"])

    paths = sorted(RECORDS.glob("*/*.json"))
    assert paths
    check_each(paths, check, lambda path: path.stem)


def test_claims_about_the_quick_start_are_those_of_its_records():
    runs = records("quickstart")
    top1 = sorted(run["final"]["top1"] for run in runs)
    seconds = sorted(run["wall_s"] for run in runs)
    assert sorted(run["seed"] for run in runs) == [0, 1, 2]
    text = (ROOT / "recipes" / "quickstart.yaml").read_text() + (ROOT / "README.md").read_text()
    low, mean, high = (f"{value:.3f}".removeprefix("0") for value in (top1[0], sum(top1) / len(top1), top1[-1]))
    assert f"{mean} top-1 ({low} to {high}" in text and f"{low} to {high} top-1" in text
    assert text.count(f"{seconds[0]:.0f} to {seconds[-1]:.0f} s of training") == 2


@pytest.mark.parametrize("metric", ["top1", "nll"])
def test_two_processes_reach_the_metrics_of_one(metric):
    """The means of three seeds do not differ significantly: Student's t at 5 %, pooled variance."""
    one, two = records("quickstart"), records("two_processes")
    assert {run["world_size"] for run in one} == {1} and {run["world_size"] for run in two} == {2}
    for run in two:  # only the batch size per process differs
        [alone] = [other["recipe"] for other in one if other["seed"] == run["seed"]]
        changed = {key for key in run["recipe"] if key in alone and run["recipe"][key] != alone[key]}
        assert changed == {"per_device_train_batch_size"}
        assert 2 * run["recipe"]["per_device_train_batch_size"] == alone["per_device_train_batch_size"]
    values = [[run["final"][metric] for run in runs] for runs in (one, two)]
    error = math.sqrt(sum(statistics.variance(found) for found in values) / 2 * (1 / 3 + 1 / 3))
    assert [len(found) for found in values] == [3, 3]
    assert abs(statistics.mean(values[0]) - statistics.mean(values[1])) <= T_OF_FOUR * error


def test_claims_about_the_input_path_are_those_of_its_record():
    cases = json.loads((RECORDS.parent / "speed" / "input.json").read_text())["cases"]
    [small], [large] = ([c for c in cases if c["size"] == size and c["workers"] == 2] for size in (32, 224))
    decoding = large["limits"]["decoding, PIL"]["images_per_s"]["median"]
    small, large = ({k: v["images_per_s"]["median"] for k, v in case["paths"].items()} for case in (small, large))
    readme = " ".join((RECORDS.parent / "speed" / "README.md").read_text().split())
    peers = ("transformers example, stored", "timm hfids, streamed")
    faster, larger = ([paths["ours, streamed"] / paths[name] for name in peers] for paths in (small, large))
    assert f"{faster[0]:.1f} times as fast as the example and {faster[1]:.1f} times as fast as timm's" in readme
    assert f"at 224 px {larger[0]:.1f} and {larger[1]:.1f} times" in readme
    assert round(decoding / large["ours, streamed"]) == 5


def test_claims_about_two_processes_are_those_of_their_records():
    assert {run["seed"]: round(run["final"]["top1"], 3) for run in records("two_processes")} == {
        0: 0.854,
        1: 0.854,
        2: 0.854,
    }
    assert "reached .854 top-1 with each of three seeds" in (ROOT / "README.md").read_text()


def test_twenty_killed_and_resumed_runs_have_bit_equal_weights():
    files = sorted((RECORDS / "kill_and_resume").glob("processes-*.jsonl"))
    rounds = [json.loads(line) for path in files for line in path.read_text().splitlines()]
    assert [sum(found["processes"] == count for found in rounds) for count in (1, 2)] == [10, 10]
    assert all(found["equal"] and not found["ended_before"] for found in rounds)
    assert all(re.fullmatch(r"[0-9a-f]{40}", found["commit"]) for found in rounds)


def test_twenty_runs_killed_while_saving_left_a_complete_checkpoint():
    file = RECORDS / "kill_and_resume" / "saving-processes-1-seed-0.jsonl"
    rounds = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(rounds) == 20 and all(found["equal"] and not found["ended_before"] for found in rounds)
    assert all(len(found["checkpoints"]) > len(found["incomplete"]) for found in rounds)
    while_saving = sum(bool(found["incomplete"]) for found in rounds)  # killed before the manifest was written
    assert f"{while_saving} of these were killed while saving" in (ROOT / "README.md").read_text()


def test_claims_about_step_costs_are_those_of_their_record():
    steps = json.loads((RECORDS.parent / "speed" / "step.json").read_text())["methods"]
    free = [step["relative"] for step in steps.values() if step["extra_passes"] == 0]
    assert (
        "cost 0 to 3 %" in (RECORDS.parent / "speed" / "README.md").read_text()
        and 0.97 < min(free)
        and max(free) < 1.035
    )
    for name in ("smmix", "tokenmix"):
        assert steps[name]["extra_passes"] == pytest.approx(1, abs=0.05)
    half, whole = (steps[name]["extra_passes"] for name in ("puzzlemix half resolution", "puzzlemix"))
    assert half == pytest.approx(whole / 4, abs=0.01)


def test_every_method_has_a_record_of_two_epochs():
    assert {run["method"]["name"] for run in records("two_epochs")} == set(available())
    assert {run["steps"] for run in records("two_epochs")} == {40}


def test_the_speed_record_contains_every_case_with_one_and_two_threads():
    cases = json.loads((RECORDS.parent / "speed" / "batch.json").read_text())["cases"]
    kinds = {(case["threads"], case["kept_memory"]) for case in cases}
    assert kinds == {(1, False), (1, True), (2, False), (2, True)}
    assert len(cases) == len(kinds) * len(list(speed.cases()))


def test_the_tests_passed_with_the_oldest_torch():
    record = json.loads((RECORDS / "oldest_torch.json").read_text())
    assert record["failed"] == 0 and record["passed"] > 4000
    assert f"    torch>={record['versions']['torch'].removesuffix('.0')}\n" in (ROOT / "setup.cfg").read_text()
