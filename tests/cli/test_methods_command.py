"""`hf-mixup methods` and `hf-mixup tasks`: tables, and descriptions of one of them."""

import re
from dataclasses import dataclass

import pytest
from fixtures.cli import ROOT

from hf_mixup import available, available_tasks
from hf_mixup.benchmark.descriptions import method_description, step_costs
from hf_mixup.cli import methods, tasks
from hf_mixup.components import ARGUMENT, arguments
from hf_mixup.methods import method_class
from hf_mixup.tasks import load_task

COMPONENTS = [*map(method_class, available()), *(type(load_task(name)) for name in available_tasks())]
OWN = '''"""Brightness: a test's own method."""
from dataclasses import dataclass
from hf_mixup import Method

@dataclass(eq=False)
class Own(Method):
    """`gain`: factor of the pixels, `None` for none."""
    gain: float | None = None
    def mix_batch(self, net, x, y, rng): ...
'''


@dataclass
class Undescribed:
    """`one`,
    `other`: described together.
    """

    one: int = 0
    other: int = 0
    last: int = 0


def lines_of(command, capsys, *argv) -> list[str]:
    assert command.main([str(word) for word in argv]) == 0
    return capsys.readouterr().out.splitlines()


def test_the_table_has_a_line_for_each_method(capsys):
    head, *lines = lines_of(methods, capsys)
    assert [line.split()[0] for line in lines] == available()
    cutmix = next(line for line in lines if line.startswith("cutmix "))
    assert "any batch" in cutmix and "Paste a box of the partner" in cutmix
    assert cutmix.index("static") == head.index("group")


def test_a_method_is_described_with_arguments_paper_needs_and_cost(capsys):
    text = "\n".join(lines_of(methods, capsys, "snapmix"))
    cost = f"{step_costs()['snapmix']['relative']:.2f} times"
    for expected in ("https://arxiv.org/abs/2012.04846", "the network", "weights of classes", cost):
        assert expected in text
    assert "--method_args.alpha" in text and "--method_args.per_image" in text


@pytest.mark.parametrize("name", available())
def test_every_method_is_described(name):
    found = method_description(name)
    assert found["summary"] and found["title"] and found["cost"] and found["tasks"]
    assert {"per_image", "pairing", "prob"} <= {argument.name for argument in found["arguments"]}
    assert all(argument.type and argument.default for argument in found["arguments"])


@pytest.mark.parametrize("cls", COMPONENTS)
def test_every_argument_is_described(cls):
    texts = {argument.name: argument.text for argument in arguments(cls)}
    assert not [name for name, text in texts.items() if not text.strip(" .")]


@pytest.mark.parametrize("cls", COMPONENTS)
def test_docstrings_describe_only_arguments(cls):
    described = {name for names, _ in ARGUMENT.findall(cls.__doc__ or "") for name in re.findall(r"`(\w+)`", names)}
    assert described <= {argument.name for argument in arguments(cls)}


def test_names_of_arguments_may_be_on_several_lines():
    found = {argument.name: argument.text for argument in arguments(Undescribed)}
    assert found["one"] == found["other"] == "described together." and found["last"] == ""


def test_the_tasks_of_a_method_are_named(capsys):
    for name, tasks_line in (("mixup", "any"), ("augmix", "classification, or others with one class per image")):
        line = next(line for line in lines_of(methods, capsys, name) if line.strip().startswith("tasks"))
        assert line.split(maxsplit=1)[1].startswith(tasks_line)


def test_a_method_of_a_file_is_described(tmp_path, capsys):
    (tmp_path / "own.py").write_text(OWN)
    text = "\n".join(lines_of(methods, capsys, f"{tmp_path}/own.py:Own"))
    assert "A test's own method" in text and "factor of the pixels" in text and "not measured" in text


def test_an_unknown_method_or_task_is_refused_with_the_nearest(capsys):
    assert methods.main(["cutmx"]) == 2 and "'cutmix'" in capsys.readouterr().err
    assert tasks.main(["multilable"]) == 2 and "'multilabel'" in capsys.readouterr().err


def test_arguments_have_types_defaults_and_texts_of_the_docstring():
    found = {argument.name: argument for argument in arguments(method_class("puzzlemix"))}
    assert (found["alpha"].type, found["alpha"].default) == ("a number", "1.0")
    assert "pixel differences" in found["gamma"].text and "cost of moving a block" in found["t_eps"].text
    assert "number of None" not in found["t_size"].type and "None" in found["t_size"].type
    assert found["prob"].text.startswith("share of batches")


def test_the_table_of_tasks_has_labels_and_metrics(capsys):
    head, *lines = lines_of(tasks, capsys)
    assert [line.split()[0] for line in lines] == available_tasks()
    assert any("top1" in line for line in lines)


@pytest.mark.parametrize("name", [*available_tasks(), f"{ROOT}/tests/tasks/toy_views.py:TwoViews"])
def test_every_task_is_described(name, capsys):
    text = "\n".join(lines_of(tasks, capsys, name))
    assert load_task(name).metric in text and "labels" in text
