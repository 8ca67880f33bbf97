"""Run the tests with the oldest declared torch in a new environment, and record the result.

python scripts/oldest_torch.py

The versions are the lower bound of torch in setup.cfg and the torchvision that belongs to it; everything else is the
newest that pip resolves. The download is several GB, so this is no part of the continuous integration. The record is
hub_cards/records/oldest_torch.json. Exit status 1 if a test fails.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from hf_mixup.files import atomic_write
from hf_mixup.runs.record import commit

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "hub_cards" / "records" / "oldest_torch.json"
TESTS = (
    "tests/trainer",
    "tests/methods",
    "tests/ops",
    "tests/net",
    "tests/models",
    "tests/data",
    "tests/test_batch.py",
)
VERSIONS = """
import json, platform, torch
from hf_mixup.runs.record import device_name, versions
print(json.dumps({"versions": versions(), "device": device_name(torch.device("cpu")), "system": platform.platform()}))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--torch", default=lower_bound("torch"), help="version of torch (default: the lower bound)")
    parser.add_argument("--torchvision", default="0.22.0", help="the torchvision of that torch")
    parser.add_argument("--tests", nargs="+", default=TESTS, help="files and folders of tests")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        python = create_environment(Path(folder), options.torch, options.torchvision)
        tested = subprocess.run([python, "-m", "pytest", *options.tests], cwd=ROOT, capture_output=True, text=True)
        print(tested.stdout)
        about = subprocess.run([python, "-c", VERSIONS], cwd=ROOT, capture_output=True, text=True, check=True)
    record = {"tests": list(options.tests), **outcome(tested.stdout), "commit": commit(), **json.loads(about.stdout)}
    atomic_write(RECORD, json.dumps(record, indent=1) + "\n")
    print(f"{record['passed']} passed, {record['failed']} failed: {RECORD}")
    return int(tested.returncode != 0)


def lower_bound(package: str) -> str:
    """The version that setup.cfg declares as the oldest of `package`, with three numbers."""
    [version] = re.findall(rf"^    {package}>=([\d.]+)$", (ROOT / "setup.cfg").read_text(), re.MULTILINE)
    return version if version.count(".") == 2 else f"{version}.0"


def create_environment(folder: Path, torch: str, torchvision: str) -> Path:
    """The Python of a new environment with these versions and the package with its test requirements."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    requirements = [f"torch=={torch}", f"torchvision=={torchvision}", "-e", f"{ROOT}[test]"]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *requirements], check=True)
    return python


def outcome(report: str) -> dict[str, int]:
    """The numbers of passed, failed and skipped tests at the end of pytest's report."""
    last = report.strip().splitlines()[-1] if report.strip() else ""
    found = {
        word.rstrip("s"): int(number) for number, word in re.findall(r"(\d+) (passed|failed|skipped|errors?)", last)
    }
    return {
        "passed": found.get("passed", 0),
        "failed": found.get("failed", 0) + found.get("error", 0),
        "skipped": found.get("skipped", 0),
    }


if __name__ == "__main__":
    sys.exit(main())
