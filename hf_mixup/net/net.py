"""Net: a network as a method sees it. What is read inside it leaves no trace."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress

import torch
from torch import Tensor, nn

from ..ops.flags import evaluating, frozen
from ..ops.losses import smooth, soft_cross_entropy
from .architecture import SUPPORTED, Layer, LayerInfo, Outputs, anatomy, as_map, attention_map, watching_attention
from .teachers import teacher
from .token_merging import merging

Loss = Callable[[Tensor, Tensor], Tensor]


class _Enough(Exception):
    """Ends a pass that has given what it was made for."""


class Net(nn.Module):
    """`model` with its loss. Passes run under `precision` (a torch dtype, or None) and return float32."""

    def __init__(self, model: nn.Module, loss: Loss = soft_cross_entropy, label_smoothing: float = 0.0):
        super().__init__()
        self.model = model
        self.row_loss = loss
        self.label_smoothing = label_smoothing
        self.precision: torch.dtype | None = None
        self.compiled: Callable | None = None
        self.parts = anatomy(model)

    def forward(self, x: Tensor) -> Tensor:
        """(B, K) logits of images (B, C, H, W)."""
        return self._run(self.model if self.compiled is None else self.compiled, x)

    def compile_model(self, **options) -> None:
        """Let passes run a compiled network; not for methods that look inside it."""
        object.__setattr__(self, "compiled", torch.compile(self.model, **options))

    def _run(self, model: Callable, x: Tensor) -> Tensor:
        x = x if self.precision else x.to(next(self.model.parameters()).dtype)
        with torch.autocast(x.device.type, self.precision) if self.precision else nullcontext():
            output = model(x)
        return getattr(output, "logits", output).float()

    def loss(self, logits: Tensor, y: Tensor, reduction: str = "mean") -> Tensor:
        """Loss of targets `y` (B, K), smoothed here: the batch's mean, or one number a row for `reduction="none"`."""
        rows = self.row_loss(logits, smooth(y, self.label_smoothing))
        return rows if reduction == "none" else rows.mean()

    # What it is made of

    @property
    def name(self) -> str:
        """The architecture's name, for messages."""
        return self.parts.name

    @property
    def classifier(self) -> nn.Linear:
        """The last linear layer: `weight` (K, F), `bias` (K,)."""
        return self._need(self.parts.classifier, "a linear classifier", "a network that ends in nn.Linear")

    @property
    def num_classes(self) -> int:
        return self.classifier.out_features

    @property
    def num_features(self) -> int:
        return self.classifier.in_features

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Height and width the network is made for, where it says so."""
        return self.parts.image_size

    def layers(self, for_method: str = "this method") -> list[LayerInfo]:
        """The stages of a CNN or Swin, the blocks of a ViT, in order; found by one pass of a blank image."""
        self._need(self.parts.layers, "stages that can be read", SUPPORTED, for_method)
        size = self.image_size or (64, 64)
        weight = next(self.model.parameters())
        channels = next(m.in_channels for m in self.model.modules() if isinstance(m, nn.Conv2d))
        maps = {}
        with torch.no_grad(), evaluating(self.model), self._catching(self.parts.layers, maps):
            self(torch.zeros(1, channels, *size, device=weight.device, dtype=weight.dtype))
        shapes = [(layer.name, self._map(maps, layer, size).shape) for layer in self.parts.layers]
        return [LayerInfo(name, shape[1], round(size[0] / shape[2])) for name, shape in shapes]

    # Looking

    def outputs(self, x: Tensor) -> Outputs:
        """Logits, pooled features and last map of one pass, with gradient."""
        pooled, maps = [], {}
        last = self._need(self.parts.layers, "stages that can be read", SUPPORTED)[-1:]
        handle = self.classifier.register_forward_pre_hook(lambda _, args: pooled.append(args[0].float()))
        try:
            with self._catching(last, maps):
                logits = self(x)
        finally:
            handle.remove()
        return Outputs(logits, pooled[0], self._map(maps, last[0], x.shape[-2:]).float())

    def features(self, x: Tensor, layer: int | str = -1) -> Tensor:
        """(B, C, h, w) float32 output of a layer, by number or name; with gradient unless the caller says otherwise.

        The pass ends there: what follows the layer is not run, and its buffers do not move.
        """
        chosen, maps = self.layer(layer), {}
        with suppress(_Enough), self._catching([chosen], maps, stop=True):
            self(x)
        return self._map(maps, chosen, x.shape[-2:]).float()

    def saliency(self, x: Tensor, y: Tensor) -> Tensor:
        """(B, H, W) length over channels of `gradient`."""
        return self.gradient(x, y).square().sum(1).sqrt()

    def gradient(self, x: Tensor, y: Tensor) -> Tensor:
        """(B, C, H, W) the loss's gradient in the images, in eval mode; no parameter gets one, no buffer moves."""
        x = x.detach().requires_grad_()
        with torch.enable_grad(), evaluating(self.model), frozen(self.model):
            [gradient] = torch.autograd.grad(self.loss(self(x), y, "none").sum(), x)
        return gradient.float()

    def class_map(self, x: Tensor, y: Tensor) -> Tensor:
        """(B, h, w) class activation of the last map for `y` (B, K), less the bias (1512.04150); eval, no gradient."""
        if y.shape[1:] != (self.num_classes,):
            raise ValueError(f"Targets of shape {tuple(y.shape)}: give a row of {self.num_classes} for each image.")
        with torch.no_grad(), evaluating(self.model):
            maps = self.features(x).relu()
        return torch.einsum("bchw,bc->bhw", maps, y.float() @ self.classifier.weight.detach().float())

    def attention(self, x: Tensor, by_patches: bool = False) -> Tensor:
        """(B, h, w) how much the last block looks at each patch, summing to one; no gradient.

        By its class token; where there is none, or with `by_patches`, by its patches on average.
        """
        with torch.no_grad(), evaluating(self.model), self.watching(by_patches=by_patches) as look:
            self(x)
            return look()

    @contextmanager
    def watching(self, for_method: str = "this method", by_patches: bool = False) -> Iterator[Callable[[], Tensor]]:
        """A function that gives the attention map of the last pass made inside, as `attention` but of that pass."""
        self._need(self.parts.attention, "attention that can be read", "a ViT, DeiT or Swin", for_method)
        sizes = []
        handle = self.register_forward_pre_hook(lambda _, args: sizes.append((len(args[0]), args[0].shape[-2:])))
        try:
            with watching_attention(self.parts) as seen:
                yield lambda: attention_map(seen[-1].detach(), self.parts, *sizes[-1], by_patches)
        finally:
            handle.remove()

    @contextmanager
    def watching_blocks(self, for_method: str = "this method") -> Iterator[Callable[[], list[Tensor]]]:
        """A function that gives the attention of each block in the last pass made inside, (B, heads, T, T)."""
        self._need(self.parts.plain, "a class token and attention in every block", "a ViT or DeiT", for_method)
        with watching_attention(self.parts, every=True) as seen:
            yield lambda: [attention.detach() for attention in seen[-len(self.parts.attentions) :]]

    @contextmanager
    def merging(self, counts: Sequence[int], for_method: str = "this method") -> Iterator[Callable]:
        """As `watching_blocks`, `counts[k]` tokens merging in block k: its attention, and (B, T) each token's place."""
        with self.watching_blocks(for_method) as look, merging(self.parts, counts) as merger:
            yield lambda block: (look()[block], merger.sources[block])

    @contextmanager
    def editing(self, layer: int | str, edit: Callable[[Tensor], Tensor]) -> Iterator[None]:
        """Passes inside go on with `edit(output)` in place of a layer's output, whose rows are images."""

        def change(_, args, output):
            if isinstance(output, tuple):
                return edit(output[0]), *output[1:]
            return edit(output)

        handle = self.layer(layer).module.register_forward_hook(change)
        try:
            yield
        finally:
            handle.remove()

    def using(self, model: nn.Module) -> "Net":
        """Another network, such as a frozen teacher, seen in the same way."""
        net = Net(model, self.row_loss, self.label_smoothing)
        net.precision = self.precision
        return net

    def teacher(self, name: str, pretrained: bool = True) -> "Net":
        """The frozen network `name`: a timm name, a folder or a Hub id; `pretrained` is for the first."""
        return self.using(teacher(name, pretrained).to(next(self.parameters()).device)).requires_grad_(False).eval()

    def copy(self) -> "Net":
        """A copy for a momentum encoder: parameters and buffers of now, no gradient."""
        net = self.using(copy.deepcopy(self.model)).requires_grad_(False)
        net.zero_grad()  # else the copy holds gradients that were there
        return net

    def layer(self, layer: int | str) -> Layer:
        """A stage or block by number (negative from the end) or name."""
        layers = self._need(self.parts.layers, "stages that can be read", SUPPORTED)
        names = [known.name for known in layers]
        if layer in names:
            return layers[names.index(layer)]
        if isinstance(layer, int) and -len(layers) <= layer < len(layers):
            return layers[layer]
        raise ValueError(f"{self.name} has no layer {layer!r}. Choose a number below {len(layers)} or one of: {names}.")

    @contextmanager
    def _catching(self, layers, maps: dict, stop: bool = False) -> Iterator[None]:
        def catch(name, output):
            maps[name] = output
            if stop:
                raise _Enough

        handles = [
            layer.module.register_forward_hook(lambda _, args, output, name=layer.name: catch(name, output))
            for layer in layers
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _map(self, maps: dict, layer: Layer, image: tuple[int, int]) -> Tensor:
        if layer.name not in maps:
            raise ValueError(
                f"{self.name} goes round its {layer.name!r}, as gradient checkpointing does: switch it off."
            )
        return as_map(maps[layer.name], self.parts, image)

    def _need(self, part, what: str, instead: str, method: str = "this method"):
        if not part:
            raise ValueError(f"{method} needs {what}, which {self.name} has not: use {instead}.")
        return part
