"""Every method with every kind of task: a pair trains, or `check_task` refuses it."""

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from rows import row

from hf_mixup import MixupStep, Net, available, load
from hf_mixup.data.labels import Labels
from hf_mixup.methods._base import REQUIREMENTS
from hf_mixup.ops.sampling import generator
from hf_mixup.tasks import load_task

TOYS = Path(__file__).parents[1] / "tasks"
COUNT, SIZE, CLASSES = 6, (16, 16), 5
NUMBERS = Labels("vector", size=2, std=[2.0, 0.5])
TASKS = {  # name, arguments and outputs of the network; None: as many as its features
    "classification": ("classification", {}, CLASSES),
    "multilabel": ("multilabel", {}, CLASSES),
    "union": ("multilabel", {"target": "union"}, CLASSES),
    "numbers": (f"{TOYS}/toy_numbers.py:TwoNumbers", {}, NUMBERS.size),
    "views": (f"{TOYS}/toy_views.py:TwoViews", {}, 0),
    "views, with classifier": (f"{TOYS}/toy_views.py:TwoViews", {}, None),
}
VIEWS = {"views", "views, with classifier"}
REFUSED = {  # the tasks that each method refuses
    "adautomix": {"numbers"} | VIEWS,
    "augmix": {"multilabel", "union", "numbers"},
    "automix": VIEWS,
    "decoupledmix": {"multilabel", "union", "numbers"},
    "mixpro": {"multilabel", "union", "numbers"},
    "mixupe": {"multilabel", "union", "numbers"},
    "recursivemix": {"multilabel", "union", "numbers"} | VIEWS,
    "remix": {"multilabel", "union", "numbers"} | VIEWS,
    "samix": VIEWS,
    "smmix": {"multilabel", "union", "numbers"} | VIEWS,
    "snapmix": {"numbers"} | VIEWS,
    "sumix": {"multilabel", "union", "numbers"} | VIEWS,
    "supermix": {"multilabel", "union", "numbers"} | VIEWS,
    "tokenmix": {"numbers"},
}
WITH_ARGUMENTS = [  # method, network, arguments, the tasks that refuse it
    ("augmix", "cnn", {"jsd_weight": 0.0}, set()),
    ("noisymix", "cnn", {"jsd_weight": 12.0}, {"multilabel", "union", "numbers"}),
    ("decoupledmix", "cnn", {"two_hot": True}, {"numbers"}),
    ("supermix", "cnn", {"teacher": "test_resnet", "teacher_pretrained": False, "teacher_size": 32}, set()),
    ("smmix", "vit", {"consistency": 0.0}, VIEWS),
    ("smmix", "vit", {"fine": 0.0}, {"multilabel", "union", "numbers"}),
    ("smmix", "vit", {"fine": 0.0, "consistency": 0.0}, set()),
    ("recursivemix", "cnn", {"omega": 0.0}, VIEWS),
    ("choice", "vit", {"methods": ["mixup", "tokenmix", "smmix"]}, {"multilabel", "union", "numbers"} | VIEWS),
    ("choice", "vit", {"methods": [{"name": "choice", "methods": ["mixup", "mixpro"]}]}, REFUSED["mixpro"]),
    ("regmixup", "vit", {"base": "tokenmix"}, {"numbers"}),
    ("transmix", "vit", {"base": "tokenmix"}, {"numbers"}),
    ("decoupledmix", "cnn", {"base": "snapmix", "two_hot": True}, {"numbers"} | VIEWS),
    ("automix", "cnn", {"onehot_mix": True}, VIEWS),
]


@pytest.fixture(scope="module")
def models():
    """Networks by kind and number of outputs, to be copied."""
    return {}


@pytest.fixture
def made(make_net, models):
    """`made("cutmix", "multilabel", prob=0.5)`: the training step of a method and a task, as the trainer makes it."""

    def make(name, task, kind=None, **changes):
        kind = kind or row(name)["nets"][0]
        reference, arguments, outputs = TASKS[task]
        if (kind, outputs) not in models:
            classes = make_net(kind, SIZE).num_features if outputs is None else outputs
            models[kind, outputs] = make_net(kind, SIZE, classes).model
        torch.manual_seed(0)
        task = load_task(reference, **arguments)
        net = Net(copy.deepcopy(models[kind, outputs]))
        net.row_loss = task.recipe_loss(None, None)
        method = load(name, **row(name)["args"] | changes)
        method.check_task(task)
        method.build_once(net)
        task.build(net, NUMBERS if task.reads == "vector" else None)
        return MixupStep(net, method, task).train()

    return make


@pytest.fixture
def batch(images):
    """`batch("numbers")`: images and labels of a training batch."""

    def make(task):
        if task.startswith("views"):
            return {"pixel_values": torch.stack([images(COUNT), images(COUNT, seed=1)], 1)}
        several = torch.rand(COUNT, CLASSES, generator=torch.Generator().manual_seed(1)).round()
        several[0] = 0
        labels = {
            "classification": torch.arange(COUNT) % CLASSES,
            "numbers": 3 * torch.randn(COUNT, 2, generator=torch.Generator().manual_seed(1)),
        }
        return {"pixel_values": images(COUNT), "labels": labels.get(task, several)}

    return make


def train(step, batch, seed=0):
    """The gradients of the network's parameters after one step, by name; fails if a loss is not a finite number."""
    step.zero_grad()
    losses = step(seed=(seed, 0, 0, 0), **batch)
    assert losses and all(loss.dim() == 0 and loss.isfinite() for loss in losses.values()), losses
    sum(losses.values()).backward()
    return {name: p.grad for name, p in step.net.model.named_parameters() if p.grad is not None}


def evaluate(step, batch):
    """Evaluate one batch of single images."""
    x = batch["pixel_values"]
    loss, outputs = step.eval().evaluate(**batch | {"pixel_values": x[:, 0] if x.dim() == 5 else x})
    assert loss.shape == (COUNT,) and loss.isfinite().all() and outputs.isfinite().all() and len(outputs) == COUNT
    step.train()


def refused(name, task, **changes):
    """The message with which the method refuses the task; None if it does not."""
    method = load(name, **row(name)["args"] | changes)
    try:
        method.check_task(load_task(*TASKS[task][:1], **TASKS[task][1]))
    except ValueError as error:
        return str(error)
    return None


def accepted(name, **changes):
    """The tasks that the method accepts."""
    return [task for task in TASKS if refused(name, task, **changes) is None]


@pytest.fixture
def check(made, batch):
    """`check("cutmix", "numbers", "vit")` trains with both kinds of draws, and evaluates."""

    def run(name, task, kind, **changes):
        data = batch(task)
        plain = train(made("erm", task, kind), data).keys()
        for per_image, seeds in ((False, (0, 1)), (True, (2, 3))):
            step = made(name, task, kind, per_image=per_image, **changes)
            for seed in seeds:
                gradients = train(step, data, seed)
                assert not plain - gradients.keys(), "parameters without a gradient"
                assert all(gradient.isfinite().all() for gradient in gradients.values()), "infinite gradients"
                step.method.after_step(step.net)
        evaluate(step, data)

    return run


@pytest.mark.parametrize("task", TASKS)
def test_a_method_that_accepts_a_task_trains_with_it(task, check):
    failures = {}
    for name in available():
        for kind in row(name)["nets"] if task in accepted(name) else ():
            try:
                check(name, task, kind)
            except Exception as error:
                failures[name, kind] = f"{type(error).__name__}: {error}"
    assert not failures


def test_methods_refuse_the_tasks_of_the_table():
    found = {name: TASKS.keys() - accepted(name) for name in available()}
    assert {name: tasks for name, tasks in found.items() if tasks} == REFUSED


@pytest.mark.parametrize("name, kind, changes, tasks", WITH_ARGUMENTS)
def test_arguments_and_contained_methods_decide_which_tasks_are_refused(name, kind, changes, tasks, check):
    assert TASKS.keys() - accepted(name, **changes) == tasks
    for task in accepted(name, **changes):
        check(name, task, kind, **changes)


def test_a_refusal_names_the_method_the_task_and_what_is_missing():
    for name, tasks in REFUSED.items():
        method = load(name, **row(name)["args"])
        for key in tasks:
            task, message = load_task(TASKS[key][0], **TASKS[key][1]), refused(name, key)
            missing = method.requires - task.provides
            assert missing and all(REQUIREMENTS[requirement] in message for requirement in missing)
            assert repr(name) in message and repr(task.name) in message
    assert "'tokenmix'" in refused("regmixup", "numbers", base="tokenmix")


def test_weights_that_do_not_sum_to_one_require_classes():
    for name in available():
        method = load(name, **row(name)["args"])
        assert not method.free_weights or "classes" in method.requires, name


# Values


def mixed(step, batch, y):
    """Images, mixed targets for `y`, and the `Mix`, as drawn in the step with seed 3."""
    x = batch["pixel_values"]
    x = x[:, 0] if x.dim() == 5 else x
    x, mix = step.method.mix(step.net, x, y, generator(3, 0, 0, 0, 1))
    lam = mix.lam[:, None]
    return x, lam * y + (1 - lam) * y[mix.partner], mix


def loss_of(step, batch):
    """The loss of the step with seed 3."""
    [loss] = step(seed=(3, 0, 0, 0), **batch).values()
    return loss


def test_several_classes_have_binary_cross_entropy_with_mixed_weights(made, batch):
    step, data = made("mixup", "multilabel", per_image=True), batch("multilabel")
    x, target, _ = mixed(step, data, data["labels"])
    torch.testing.assert_close(loss_of(step, data), F.binary_cross_entropy_with_logits(step.net(x), target))


@pytest.mark.parametrize("prob", [1.0, 0.5])
def test_the_union_of_mixed_images_has_all_their_classes(prob, made, batch):
    step, data = made("mixup", "union", per_image=True, prob=prob), batch("union")
    y = data["labels"]
    x, _, mix = mixed(step, data, y)
    both = ((mix.lam > 0) & (mix.lam < 1))[:, None]
    assert both.all() == (prob == 1)
    target = torch.where(both, torch.maximum(y, y[mix.partner]), y)
    torch.testing.assert_close(loss_of(step, data), F.binary_cross_entropy_with_logits(step.net(x), target))


def test_the_weight_of_a_class_is_at_most_one():
    task, above = load_task("multilabel"), torch.tensor([[1.5, 0.5, 0.0]])
    logits = torch.tensor([[9.0, 1.0, -1.0]])
    expected = F.binary_cross_entropy_with_logits(logits, torch.tensor([[1.0, 0.5, 0.0]]))
    torch.testing.assert_close(task.loss(logits, above), expected[None])


def test_numbers_have_the_loss_of_mixed_numbers(made, batch):
    step, data = made("mixup", "numbers", per_image=True), batch("numbers")
    x, target, _ = mixed(step, data, data["labels"])
    expected = ((step.net(x) - target) / torch.tensor(NUMBERS.std)).square().mean()
    torch.testing.assert_close(loss_of(step, data), expected)


def test_a_mixed_view_finds_both_images_with_the_weights_of_the_mix(made, batch):
    step, data, targets = made("mixup", "views", per_image=True), batch("views"), []
    loss = step.net.row_loss
    step.net.row_loss = lambda outputs, y: targets.append(y) or loss(outputs, y)
    found = loss_of(step, data)
    x, target, mix = mixed(step, data, torch.eye(COUNT))
    torch.testing.assert_close(targets[0], target)
    assert (mix.partner != torch.arange(COUNT)).all() and ((mix.lam > 0) & (mix.lam < 1)).all()
    queries, keys = (step.task.project(step.net(images)) for images in (x, data["pixel_values"][:, 1]))
    logs = (queries @ keys.T / step.task.temperature).log_softmax(1)
    torch.testing.assert_close(found, -(target * logs).sum(1).mean())
