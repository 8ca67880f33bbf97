"""SMMix: the partner's most attended window over the least attended one."""

import pytest
import torch
import torch.nn.functional as F

from hf_mixup import Net, load
from hf_mixup.methods.smmix import find_windows, smmix
from hf_mixup.net.net import Outputs
from hf_mixup.ops.losses import soft_cross_entropy

PATCH = 4


def mixed_by_hand(count=6, grid=(5, 6), side=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    attention = torch.rand(count, *grid, generator=generator)
    x = torch.rand(count, 3, grid[0] * PATCH, grid[1] * PATCH, generator=generator)
    partner = torch.arange(count).flip(0)
    return x, attention, partner, *smmix(x, attention, partner, torch.tensor([side]))


def pattern(shape, frequency):
    return torch.sin(torch.arange(torch.Size(shape).numel()) * frequency + 1.0).reshape(shape)


class Looking(Net):
    """A network with fixed attention, logits (of clean and of mixed images) and tokens."""

    def forward(self, x):
        return 2 * pattern((4, 4), 0.9)

    def attention(self, x, by_patches=False):
        self(x)  # SMMix records the clean logits of this pass
        return pattern((4, 25), 1.7).square().view(4, 5, 5)

    def outputs(self, x):
        self.shown = x
        return Outputs(2 * pattern((4, 4), 1.3), None, pattern((4, 25, 3), 2.3).mT.unflatten(2, (5, 5)))


def test_images_and_losses_match_the_authors():
    """ChenMnZ/SMMix at 14b1edc, smmix.py: SMMix(label_smoothing=0.1, num_classes=4, side=5)(x, arange(4), model) with
    windows of two patches, for the attention and clean logits above: `x[:, 0].sum(2)[:, ::3]` and the first patches of
    the source masks; then deit.py's lines target_result and source_result, for a linear head and the tokens above,
    normalised; and engine.py's loss_cls, loss_fine and loss_con for the logits above."""
    rows = [2.397376, 4.868087, -5.567111, -5.156302, -1.282559, 4.494846, -4.3014, -3.399918]
    rows += [1.382506, 0.139357, -5.202195, -0.048382, 2.809751, -4.089324, -1.300142, 3.325848]
    net, method = Looking(torch.nn.Flatten(), label_smoothing=0.1), load("smmix", low=0.4, high=0.4)
    method.head = torch.nn.Linear(3, 4)
    method.head.weight.data, method.head.bias.data = pattern((4, 3), 0.7), pattern((4,), 0.3)
    x, rng = pattern((4, 1, 10, 10), 0.37), torch.Generator()
    losses = method(net, x, torch.eye(4), rng)
    torch.testing.assert_close(net.shown[:, 0].sum(2)[:, ::3].flatten(), torch.tensor(rows), atol=1e-5, rtol=0)
    mask = method.mix(net, x, torch.eye(4), rng)[1].mask[:, 0, ::2, ::2]
    assert [(1 - row).nonzero()[0].tolist() for row in mask] == [[2, 3], [0, 1], [0, 0], [2, 2]]
    expected = {"mix": 0.983076, "fine": 1.429629, "consistency": 1.216092}
    assert {key: loss.item() for key, loss in losses.items()} == pytest.approx(expected, abs=1e-5)


def test_attention_is_that_of_patches_to_patches(make_net, images, one_hot, rng):
    """deit.py there, forward: attn[:, :, 1:, 1:].mean(dim=(1, 2)), not the class token's row."""
    net = make_net("vit").eval()
    with net.capturing_block_attention() as look:
        net(images())
        attention = look()[-1]
    expected = attention[:, :, 1:, 1:].mean((1, 2)).view(6, 4, 4)
    expected /= expected.sum((1, 2), keepdim=True)
    torch.testing.assert_close(net.attention(images(), by_patches=True), expected)
    assert not torch.allclose(net.attention(images()), expected)
    net.train()
    side = load("smmix").sides(images(), (4, 4), torch.Generator().manual_seed(3))
    mixed, _ = load("smmix").mix(net, images(), one_hot(), torch.Generator().manual_seed(3))
    assert torch.equal(mixed, smmix(images(), expected, torch.arange(6).flip(0), side)[0])


def sums(attention, side):
    """(B, rows, columns) sum of each window, by unfold."""
    return attention.unfold(1, side, 1).unfold(2, side, 1).sum((3, 4))


def test_seven_of_fourteen_patches_a_side_keep_three_quarters():
    _, _, _, _, mix = mixed_by_hand(2, (14, 14), 7)
    assert mix.lam.tolist() == [0.75, 0.75]


@pytest.mark.parametrize("side", [1, 2, 3, 5])
def test_windows_have_the_least_and_the_most_attention(side):
    attention = torch.rand(8, 5, 6, generator=torch.Generator().manual_seed(1))
    total = sums(attention, side)
    for largest, place in ((True, total.flatten(1).argmax(1)), (False, total.flatten(1).argmin(1))):
        found = find_windows(attention, torch.full((8,), side), largest)
        assert torch.equal(found, torch.stack([place // total.shape[2], place % total.shape[2]], 1))


def test_each_row_may_have_its_own_side():
    attention = torch.rand(3, 5, 6, generator=torch.Generator().manual_seed(1))
    together = find_windows(attention, torch.tensor([1, 2, 3]), True)
    for row, side in enumerate((1, 2, 3)):
        assert torch.equal(together[row], find_windows(attention, torch.tensor([side] * 3), True)[row])


@pytest.mark.parametrize("count", [2, 5, 6])
def test_the_window_is_the_partners_and_the_rest_is_not_changed(count):
    x, attention, partner, mixed, mix = mixed_by_hand(count)
    side = torch.full((count,), 2)
    to, source = find_windows(attention, side, False) * PATCH, find_windows(attention, side, True) * PATCH
    for i in range(count):
        (top, left), (row, column) = to[i].tolist(), source[partner[i]].tolist()
        expected, length = x[i].clone(), 2 * PATCH
        window = x[partner[i], :, row : row + length, column : column + length]
        expected[:, top : top + length, left : left + length] = window
        assert torch.equal(mixed[i], expected)
        assert torch.equal(mixed[i][:, mix.mask[i, 0] == 1], x[i][:, mix.mask[i, 0] == 1])


def test_lam_is_the_share_of_cells_kept():
    for side in (1, 2, 3):
        mix = mixed_by_hand(side=side)[-1]
        torch.testing.assert_close(mix.lam, torch.full((6,), 1 - side**2 / 30))


def test_equal_attention_selects_the_first_window():
    assert find_windows(torch.full((2, 4, 4), 1 / 16), torch.tensor([2, 3]), True).tolist() == [[0, 0], [0, 0]]


def test_sides_are_a_quarter_to_three_quarters_of_the_grid(images, rng):
    method = load("smmix", per_image=True)
    sides = method.sides(images(500, (1, 1)), (14, 14), rng)
    assert sorted(sides.unique().tolist()) == list(range(3, 11))


def test_the_partner_is_that_of_the_flipped_batch_by_default(make_net, images, one_hot, rng):
    _, mix = load("smmix").mix(make_net("vit"), images(5), one_hot(5), rng)
    assert mix.partner.tolist() == [4, 3, 2, 1, 0]


def built(make_net, **changes):
    net = make_net("vit")
    net.model.eval()
    method = load("smmix", **changes)
    method.build(net)
    return method.train(), net


def test_without_its_terms_it_is_the_plain_loss(make_net, images, one_hot, seeded):
    method, net = built(make_net, fine=0.0, consistency=0.0)
    mixed, mix = method.mix(net, images(), one_hot(), seeded(1))
    losses = method(net, images(), one_hot(), seeded(1))
    assert losses.keys() == {"mix"} and not list(method.parameters())
    torch.testing.assert_close(losses["mix"], net.loss(net(mixed), mix(one_hot())))


def test_consistency_is_the_divergence_from_the_mixed_clean_logits(make_net, images, one_hot, seeded):
    method, net = built(make_net, fine=0.0)
    mixed, mix = method.mix(net, images(), one_hot(), seeded(1))
    clean, logits = mix(net(images())), net(mixed)
    told = F.kl_div(logits.log_softmax(1), clean.softmax(1), reduction="batchmean")
    torch.testing.assert_close(method(net, images(), one_hot(), seeded(1))["consistency"], told)


def test_the_extra_head_reads_own_and_pasted_tokens(make_net, images, one_hot, seeded):
    method, net = built(make_net)
    x, y = images(), one_hot()
    mixed, mix = method.mix(net, x, y, seeded(1))
    tokens = net.outputs(mixed).tokens.flatten(2).transpose(1, 2)
    tokens = F.layer_norm(tokens, tokens.shape[-1:])
    cells = mix.mask[:, 0, ::PATCH, ::PATCH].flatten(1) == 1
    told = 0.0
    for i in range(6):
        for own, target in ((cells[i], y[i]), (~cells[i], y[5 - i])):
            told += soft_cross_entropy(method.head(tokens[i, own].mean(0))[None], target[None]).mean() / 6
    torch.testing.assert_close(method(net, x, y, seeded(1))["fine"], 0.5 * told)


def test_skipped_rows_have_no_additional_loss(make_net, images, one_hot, seeded):
    method, net = built(make_net, per_image=True, prob=0.0)
    losses = method(net, images(), one_hot(), seeded(1))
    assert losses["fine"] == losses["consistency"] == 0


def test_a_network_without_attention_is_rejected_with_its_name(make_net):
    with pytest.raises(ValueError, match="smmix requires attention.*resnet18.*ViT"):
        load("smmix").build(make_net("cnn"))


@pytest.mark.parametrize("changes", [{"low": 0.8}, {"high": 1.5}, {"fine": -1.0}, {"consistency": float("nan")}])
def test_invalid_numbers_are_rejected(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        load("smmix", **changes)
