"""Logits of many images on a CPU: the model's own to rounding, in three quarters of the time.

Three things buy it (``tests/benchmarks/inference.py`` measures them one by one):

* images go through a block in parts, whose activations stay in the processor's cache;
* every core works on its own part, so none waits for another inside an operation;
* oneDNN, which comes with PyTorch, takes weights laid out for it and applies the GELU itself.

Weights are laid out again for every batch, block by block, so that nothing is kept to get stale.
"""

from __future__ import annotations

import copy
import platform
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import torch
from torch import Tensor, nn

from mixer_lite.model import MixerBlock, MlpBlock, MlpMixer, mixer_blocks

PART = 2_500_000  # numbers that a part's widest activation may hold, 10 MB
# On other machines only the parts are used: oneDNN was not measured there.
ONEDNN = platform.machine() in ("x86_64", "AMD64") and torch.backends.mkldnn.is_available()


class Int8Linear(nn.Module):
    """A linear layer that multiplies 8-bit whole numbers: ``(..., dim) -> (..., out)``.

    Every row of the weights and of the input has its own scale, so that what an image gives
    does not depend on the others in its batch.
    """

    weight: Tensor  # (out, dim)
    scale: Tensor  # (out,)
    bias: Tensor | None

    def __init__(self, linear: nn.Linear):
        super().__init__()
        weight, scale = _rounded(linear.weight.detach())
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale[:, 0])
        bias = None if linear.bias is None else linear.bias.detach().clone()
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., dim) -> (..., out)``."""
        rows, scale = _rounded(x.reshape(-1, x.shape[-1]))  # (n, dim), (n, 1)
        y = torch._int_mm(rows, self.weight.T) * scale  # whole numbers -> (n, out)
        y *= self.scale
        if self.bias is not None:
            y += self.bias
        return y.view(*x.shape[:-1], -1)


def _rounded(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows ``(n, dim)`` in 8 bits, and their scales ``(n, 1)``."""
    scale = x.abs().amax(dim=1, keepdim=True).div_(127).clamp_min_(1e-30)  # a row may be all zero
    return (x / scale).round_().to(torch.int8), scale


def quantize(model: MlpMixer) -> MlpMixer:
    """A copy of the model whose blocks multiply in 8 bits; ``predict`` and ``evaluate`` take it.

    Stem, LayerNorms and head stay as they are. It saves time where products take most of it, in
    large models and many images.

    Raises:
        RuntimeError: this processor is not quick with 8 bits, or the model is on a GPU.
    """
    device = next(model.parameters()).device.type
    if device != "cpu" or not torch.cpu._is_vnni_supported():
        raise RuntimeError(
            "8-bit models need a CPU with VNNI instructions (Intel's since 2019, AMD's since "
            "Zen 4): use the model as it is."
        )
    model = copy.deepcopy(model).eval()
    if model.config:
        model.config = replace(model.config, name=f"{model.config.name}_int8")
    for block in mixer_blocks(model):
        for mlp in (block.mlp_tokens, block.mlp_channels):
            mlp.fc1, mlp.fc2 = Int8Linear(mlp.fc1), Int8Linear(mlp.fc2)  # type: ignore[assignment]
    return model


PLAIN = {
    MlpMixer, MixerBlock, MlpBlock, Int8Linear,
    nn.Sequential, nn.Linear, nn.LayerNorm, nn.GELU, nn.Identity,
}  # fmt: skip


def applies(model: nn.Module, images: Tensor) -> bool:
    """Whether :func:`logits` gives what ``model(images)`` would, hooks and all, and sooner."""
    modules = list(model.modules())
    tensors = [images, *model.parameters()]
    return (
        type(model) is MlpMixer
        and all(type(block) is MixerBlock for block in model.blocks)
        and not (model.training or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"))
        and all(t.device.type == "cpu" and t.dtype == torch.float32 for t in tensors)
        # A subclass, a parametrisation, a hook or a replaced forward may do anything.
        and all(type(m) in PLAIN and "forward" not in vars(m) for m in modules)
        and not any(m._forward_hooks or m._forward_pre_hooks for m in modules)
        # For less work it does not pay to start threads.
        and len(images) > 1
        and _widest(model, images) > PART // 4
    )


def _widest(model: MlpMixer, images: Tensor) -> int:
    """Numbers that the widest activation of all images holds."""
    tokens, channels = model.num_tokens, model.hidden_dim
    return len(images) * max(tokens * model.channels_mlp_dim, channels * model.tokens_mlp_dim)


def logits(model: MlpMixer, images: Tensor) -> Tensor:
    """``model(images)``, sooner where :func:`applies` says so.

    ``(b, in_channels, h, w) -> (b, num_classes)``
    """
    if not applies(model, images):
        return model(images)
    x = model.stem(model.patchify(images))  # (b, S, C)
    cores = torch.get_num_threads()
    # As many parts for every core; at least one image in each.
    count = cores * -(-_widest(model, images) // (cores * PART))
    parts = x.tensor_split(min(count, len(x)))
    try:
        with ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for block in mixer_blocks(model):
                list(pool.map(_mixing(block, parts[0].shape), parts))
    finally:
        torch.set_num_threads(cores)  # the workers' setting would become the default of new threads
    return model.head(model.norm(x).mean(dim=1))  # (b, S, C) -> (b, C) -> (b, num_classes)


def _mixing(block: MixerBlock, shape: torch.Size) -> Callable[[Tensor], None]:
    """What the block does, for parts of about this shape ``(b, S, C)``, in place."""
    images, tokens, channels = shape
    mix_tokens = _mlp(block.mlp_tokens, images * channels)
    mix_channels = _mlp(block.mlp_channels, images * tokens)

    @torch.inference_mode()  # every thread has its own
    def mix(x: Tensor) -> None:
        x += mix_tokens(block.norm1(x).mT.contiguous()).mT  # (b, S, C) -> (b, C, S) and back
        x += mix_channels(block.norm2(x))  # (b, S, C)

    return mix


def _mlp(mlp: MlpBlock, rows: int) -> Callable[[Tensor], Tensor]:
    """The MLP, its weights laid out for inputs of about so many rows."""
    if not ONEDNN or [type(m) for m in mlp.children()] != [nn.Linear, nn.GELU, nn.Linear]:
        return mlp
    onednn, fc1, act, fc2 = torch.ops.mkldnn, mlp.fc1, mlp.act, mlp.fc2
    w1, w2 = (onednn._reorder_linear_weight(fc.weight, rows) for fc in (fc1, fc2))

    def forward(x: Tensor) -> Tensor:
        x = onednn._linear_pointwise(x, w1, fc1.bias, "gelu", [], act.approximate)
        return onednn._linear_pointwise(x, w2, fc2.bias, "none", [], "")

    return forward
