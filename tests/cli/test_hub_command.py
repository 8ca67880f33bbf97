"""`hf-mixup hub`: the local Hub from the command."""

import signal

from fixtures.cli import ROOT, python

BLOCKED = "import sys; sys.modules['starlette'] = None; sys.argv = ['hf-mixup', 'hub', '--root', 'x']; "
BLOCKED += "from hf_mixup.cli.main import main; sys.exit(main())"


def test_the_hub_serves_until_it_is_interrupted(tmp_path):
    process = python("-m", "hf_mixup", "hub", "--root", tmp_path / "hub")
    lines = [process.stdout.readline() for _ in range(3)]
    assert all(line.startswith("export HF_") for line in lines)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0 and (tmp_path / "hub").is_dir()


def test_without_the_extra_the_message_names_it(tmp_path):
    process = python("-c", BLOCKED, cwd=tmp_path, environment={"PYTHONPATH": str(ROOT)})
    printed, errors = process.communicate()
    assert process.returncode == 2 and "pip install 'hf_mixup[testing]'" in errors and "Traceback" not in errors
