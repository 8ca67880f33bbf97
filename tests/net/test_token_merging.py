"""Token merging inside a network, compared with an explicit implementation."""

import pytest
import timm
import torch
from transformers import ViTConfig, ViTForImageClassification

from hf_mixup import Net
from hf_mixup.ops.token_merging import match, merge

COUNTS = (3, 2, 4)


def transformers_vit():
    torch.manual_seed(0)
    shape = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 48}
    return ViTForImageClassification(ViTConfig(image_size=16, patch_size=4, num_labels=5, **shape))


def distilled():
    torch.manual_seed(0)
    shape = {"patch_size": 4, "embed_dim": 24, "depth": 3, "num_heads": 3}
    return timm.create_model("deit_tiny_distilled_patch16_224", img_size=16, num_classes=5, **shape)


def explicit_merging(model, x, counts):
    """Logits of a timm ViT whose tokens merge, and each token's position before each block."""
    tokens = model._pos_embed(model.patch_embed(x))
    weight, kept = torch.ones(tokens.shape[:2]), model.num_prefix_tokens
    sources = [torch.arange(tokens.shape[1]).expand(len(x), -1)]
    for block, count in zip(model.blocks, counts):
        seen = block.norm1(tokens)
        keys = block.attn.qkv(seen).unflatten(-1, (3, 3, -1))[:, :, 1].mean(2)
        tokens = tokens + block.attn(seen)
        place = match(keys, count, kept)
        tokens, weight = merge(tokens, weight, place, count)
        sources.append(place.gather(1, sources[-1]))
        tokens = tokens + block.mlp(block.norm2(tokens))
    return model.forward_head(model.norm(tokens)), sources


@pytest.mark.parametrize("kind", ["class token", "two tokens"])
@torch.no_grad()
def test_merging_equals_an_explicit_implementation(kind, vit_model, images):
    model = (vit_model() if kind == "class token" else distilled()).eval()
    net, x = Net(model), images(3)
    with net.merging_tokens(COUNTS) as read_attention:
        logits = net(x)
        found = [read_attention(block) for block in range(3)]
    expected, sources = explicit_merging(model, x, COUNTS)
    torch.testing.assert_close(logits, expected.float(), atol=1e-5, rtol=0)
    for (attention, place), source in zip(found, sources):
        assert torch.equal(place, source)
        torch.testing.assert_close(attention.sum(-1), torch.ones(attention.shape[:-1]))
        assert attention.shape[-1] == place.max() + 1


@torch.no_grad()
def test_tokens_merge_in_a_network_of_transformers(images):
    net, x = Net(transformers_vit().eval()), images(3)
    plain = net(x)
    with net.merging_tokens((0, 0, 0)):
        torch.testing.assert_close(net(x), plain, atol=1e-5, rtol=0)
    with net.merging_tokens(COUNTS) as read_attention:
        assert (net(x) - plain).abs().max() > 1e-5
        attention, place = read_attention(2)
    assert attention.shape == (3, 3, 12, 12) and place.shape == (3, 17)
    assert torch.equal(net(x), plain)


@torch.no_grad()
def test_the_number_of_merged_tokens_is_limited(vit_model, images):
    net = Net(vit_model().eval())
    with net.merging_tokens((-4, 100, 100)) as read_attention:
        assert net(images(2)).isfinite().all()
        sizes = [int(read_attention(block)[1].max()) + 1 for block in range(3)]
    assert sizes == [17, 17, 9]


def test_hooks_are_removed_after_an_exception(vit_model, images):
    net = Net(vit_model())
    with pytest.raises(RuntimeError), net.merging_tokens(COUNTS):
        raise RuntimeError
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_a_cnn_is_refused(resnet_model):
    with (
        pytest.raises(ValueError, match="mergemix requires a class token"),
        Net(resnet_model()).merging_tokens((), "mergemix"),
    ):
        pass
