"""Checkpoint files to our models and back: pure key maps, safe reading.

Our names are timm's, with one difference: timm's stem is a strided convolution,
``stem.proj.weight (C, 3, P, P)``, ours the equal matrix ``stem.weight (C, 3*P*P)``.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from mixer_lite.model import Gelu, MlpMixer
from mixer_lite.specs import ModelConfig

# Training scripts wrap the weights; averaged weights are the ones meant for use.
_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")


def to_timm_state_dict(model: MlpMixer) -> dict[str, Tensor]:
    """The model's weights under timm's names and shapes, for ``timm``'s ``load_state_dict``.

    A model without a head gives no head entries, like timm's with ``num_classes=0``.
    """
    state = {k: v.detach().clone() for k, v in model.state_dict().items()}
    weight, bias = state.pop("stem.weight"), state.pop("stem.bias")
    p = model.patch_size
    kernel = rearrange(weight, "c (i p1 p2) -> c i p1 p2", p1=p, p2=p).contiguous()
    return {"stem.proj.weight": kernel, "stem.proj.bias": bias, **state}


def from_timm_state_dict(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under timm's names to ours; entries that are already ours pass through."""
    ours = dict(state)
    if "stem.proj.weight" in ours:
        ours["stem.weight"] = rearrange(ours.pop("stem.proj.weight"), "c i p1 p2 -> c (i p1 p2)")
    if "stem.proj.bias" in ours:
        ours["stem.bias"] = ours.pop("stem.proj.bias")
    return ours


def read_arguments(state: Mapping[str, Tensor], patch_size: int | None = None) -> dict[str, Any]:
    """The arguments of :class:`MlpMixer` that fit a state dict, read off its shapes.

    The patch grid is taken to be square and the input to have three channels, which no weight
    tells apart from other choices.

    Raises:
        ValueError: an entry that every Mixer has is missing, or the shapes fit no such Mixer.
    """
    state = from_timm_state_dict(state)
    needed = ("stem.weight", "norm.weight", *(
        f"blocks.0.{m}.{k}.weight" for m in ("mlp_tokens", "mlp_channels") for k in ("fc1", "fc2")
    ))  # fmt: skip
    missing = [k for k in needed if k not in state]
    if missing:
        raise ValueError(
            f"These are not an MLP-Mixer's weights in timm's layout: {missing[0]} is missing "
            f"(the first of their names: {', '.join(list(state)[:3]) or 'none'})."
        )
    hidden_dim, pixels = state["stem.weight"].shape
    tokens_mlp_dim, num_tokens = state["blocks.0.mlp_tokens.fc1.weight"].shape
    side, patch = round(num_tokens**0.5), patch_size or round((pixels / 3) ** 0.5)
    if side**2 != num_tokens or 3 * patch**2 != pixels:
        raise ValueError(
            f"{num_tokens} tokens of {pixels} values are not a square grid of square RGB patches."
        )
    blocks = {int(m[1]) for k in state if (m := re.match(r"blocks\.(\d+)\.", k))}
    return dict(
        image_size=side * patch,
        patch_size=patch,
        num_classes=len(state["head.weight"]) if "head.weight" in state else 0,
        num_blocks=max(blocks) + 1,
        hidden_dim=hidden_dim,
        tokens_mlp_dim=tokens_mlp_dim,
        channels_mlp_dim=len(state["blocks.0.mlp_channels.fc1.weight"]),
    )


def read_file(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and text metadata of a ``.safetensors``, ``.pth``, ``.pt`` or ``.bin`` file.

    PyTorch's pickles are read with ``weights_only=True``: no code in the file is ever run.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, holds more than tensors, or is of another kind.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no checkpoint file {path}.")
    metadata: dict[str, str] = {}
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                return {k: file.get_tensor(k) for k in file.keys()}, metadata
        except SafetensorError as error:
            raise ValueError(f"{path} is not a whole safetensors file: {error}.") from error
    if path.suffix not in (".pth", ".pt", ".bin"):
        raise ValueError(
            f"{path.name}: give a .safetensors, .pth, .pt or .bin file, not {path.suffix!r}."
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds more than tensors and was not opened, because reading it could run "
            f"code: save its state_dict() alone, best as .safetensors."
        ) from error
    except (RuntimeError, EOFError) as error:
        raise ValueError(f"{path} is damaged or not a PyTorch file: {error}.") from error
    for key in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise ValueError(f"{path} holds no state dict: a mapping from names to tensors.")
    return {k.removeprefix("module."): v for k, v in content.items()}, metadata


def load_checkpoint(path: str | Path, *, config: ModelConfig | None = None) -> MlpMixer:
    """A model from a file of weights in our layout or timm's, in evaluation mode.

    Sizes are read off the weights; preprocessing and class names from the file where
    :func:`save_checkpoint` wrote it, else from ``config``, else the official code's
    (mean and std 0.5, bicubic, crop 0.875). Half-precision weights become float32.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or unsafe, or its weights are not a Mixer's.
    """
    state, metadata = read_file(path)
    ours = from_timm_state_dict(state)
    arguments = read_arguments(ours)
    gelu: Gelu = "tanh" if metadata.get("gelu") == "tanh" else "exact"
    model = MlpMixer(**arguments, gelu=gelu)
    try:
        model.load_state_dict({k: v.float() for k, v in ours.items()})
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise ValueError(f"{path} does not fit the Mixer that its sizes name: {first}") from error
    if config is None and "config" in metadata:
        known = {f.name for f in fields(ModelConfig)}
        saved: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v
            for k, v in json.loads(metadata["config"]).items()
            if k in known
        }
        config = ModelConfig(**saved)
    model.config = config or ModelConfig(
        name=Path(path).stem, image_size=arguments["image_size"], source=f"file {Path(path).name}"
    )
    return model.eval()


def save_checkpoint(
    model: MlpMixer, path: str | Path, *, dtype: torch.dtype = torch.float32
) -> None:
    """Write a ``.safetensors`` file that :func:`load_checkpoint` reads back whole.

    ``dtype=torch.float16`` halves the file; every weight is then rounded to 11 bits.
    """
    from safetensors.torch import save_file

    state = {k: v.detach().cpu().to(dtype).contiguous() for k, v in model.state_dict().items()}
    metadata: dict[str, str] = {"gelu": model.gelu}
    if model.config:
        metadata["config"] = json.dumps(asdict(model.config))
    save_file(state, path, metadata=metadata)
