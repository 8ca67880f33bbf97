"""LoRA: MixupTrainer trains the adapters of a peft model, and saves, resumes and reloads them."""

import shutil

import pytest
import torch
from fixtures.training import Rows, alike, losses, make, native_vit, timm_vit

peft = pytest.importorskip("peft")

NETWORKS = {
    "native": (native_vit, {"target_modules": ["q_proj", "v_proj"], "modules_to_save": ["classifier"]}),
    "timm": (timm_vit, {"target_modules": ["qkv"], "modules_to_save": ["head"]}),
}
METHODS = ("cutmix", "manifoldmix", "automix", "transmix")
SAVED = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": None, "max_steps": 3}
every_network = pytest.mark.parametrize("network", NETWORKS)
every_method = pytest.mark.parametrize("method", METHODS)


def adapted(network):
    base, options = NETWORKS[network]
    torch.manual_seed(1)
    return peft.get_peft_model(base(), peft.LoraConfig(r=2, **options))


def trainer_of(folder, network, method):
    return make(folder, adapted(network), method=method, optimizer=None, eval_dataset=Rows(8), **SAVED)


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(Rows(8).x).logits


@every_method
@every_network
def test_only_adapters_saved_modules_and_the_methods_networks_are_trained(tmp_path, network, method):
    trainer = trainer_of(tmp_path, network, method)
    parameters = dict(trainer.step.named_parameters())
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    loss = trainer.evaluate()["eval_loss"]
    trainer.train()
    moved = {name for name, parameter in parameters.items() if not torch.equal(parameter, before[name])}
    of_network = {name for name in moved if name.startswith("net.")}
    expected = {name for name in parameters if "lora_" in name or ".modules_to_save." in name}
    assert of_network == {name for name in expected if name.startswith("net.")}
    assert len(of_network) > 2 and bool(moved - of_network) == (method == "automix")
    assert trainer.evaluate()["eval_loss"] != loss


@every_method
@every_network
def test_a_resumed_run_of_adapters_ends_at_the_same_bits(tmp_path, network, method):
    reference = trainer_of(tmp_path / "reference", network, method)
    reference.train()
    saved = tmp_path / "reference" / "checkpoint-2"
    assert (saved / "adapter_model.safetensors").is_file() and not (saved / "model.safetensors").exists()
    assert (saved / "method.safetensors").is_file() == (method == "automix")
    shutil.copytree(saved, tmp_path / "resumed" / "checkpoint-2")
    resumed = trainer_of(tmp_path / "resumed", network, method)
    resumed.train(resume_from_checkpoint=True)
    assert losses(resumed) == losses(reference)
    assert alike(resumed.step.state_dict(), reference.step.state_dict())


@every_network
def test_a_saved_adapter_is_loaded_by_peft_with_the_same_logits(tmp_path, network):
    trainer = trainer_of(tmp_path, network, "automix")
    trainer.train()
    trainer.save_model()
    for folder in (tmp_path, tmp_path / "checkpoint-3"):
        loaded = peft.PeftModel.from_pretrained(NETWORKS[network][0](), folder)
        assert torch.equal(logits(loaded), logits(trainer.model))
    assert not torch.equal(logits(loaded), logits(NETWORKS[network][0]()))


def test_a_merged_adapter_is_a_plain_network(tmp_path):
    trainer = trainer_of(tmp_path, "native", "cutmix")
    trainer.train()
    expected = logits(trainer.model)
    merged = trainer.model.merge_and_unload()
    assert isinstance(merged, type(native_vit()))
    assert torch.allclose(logits(merged), expected, atol=1e-6)
