"""Names to trained weights: bundled ones first, then timm's (its cache, then the network)."""

from __future__ import annotations

import difflib
import hashlib
from dataclasses import dataclass
from typing import Any

from mixer_lite.checkpoints import from_timm_state_dict, load_checkpoint, read_arguments
from mixer_lite.labels import imagenet_names
from mixer_lite.model import MlpMixer
from mixer_lite.resources import data_path
from mixer_lite.specs import ModelConfig


@dataclass(frozen=True)
class Bundled:
    """A file of weights in ``data/`` and the checksum it must have."""

    file: str
    sha256: str


BUNDLED = {
    "mixer_nano_cifar10": Bundled(
        "mixer_nano_cifar10.safetensors",
        "c2ac4662871c45f74cf6242b1069729194fe9307e1a702bb3d4a8f122045c77c",
    ),
}

_FROM_SCRATCH = (
    "Google's MLP-Mixer trained from scratch on ImageNet-1k (Apache-2.0), as timm hosts it. "
    "timm's tag says goog_in21k_ft_in1k, but no fine-tuned ImageNet-21k weights were published: "
    "its accuracy is that of the paper's ImageNet row in Table 3."
)
_IN21K = "Google's MLP-Mixer trained on ImageNet-21k (Apache-2.0), as timm hosts it."
_MIIL = "Alibaba MIIL's MLP-Mixer trained on ImageNet-21k-P (Apache-2.0), as timm hosts it."
# timm's names of plain Mixers with trained weights, and where those come from.
FROM_TIMM = {
    "mixer_b16_224.goog_in21k_ft_in1k": _FROM_SCRATCH,
    "mixer_l16_224.goog_in21k_ft_in1k": _FROM_SCRATCH,
    "mixer_b16_224.goog_in21k": _IN21K,
    "mixer_l16_224.goog_in21k": _IN21K,
    "mixer_b16_224.miil_in21k": _MIIL,
    "mixer_b16_224.miil_in21k_ft_in1k": _MIIL[:-1] + ", then fine-tuned on ImageNet-1k.",
}


def list_pretrained(*, bundled_only: bool = False) -> list[str]:
    """Names that :func:`load_pretrained` takes; the bundled ones, which need no network, first."""
    return [*BUNDLED, *([] if bundled_only else FROM_TIMM)]


def load_pretrained(name: str) -> MlpMixer:
    """A trained model in evaluation mode, with its preprocessing and class names.

    Bundled weights are checked against their sha256 and need no network. The others are timm's:
    from its cache, else downloaded once from the model hub.

    Raises:
        ValueError: there are no weights of this name, or the bundled file is damaged.
        ConnectionError: the weights are not in the cache and the hub did not answer.
    """
    if name in BUNDLED:
        path = data_path(BUNDLED[name].file)
        if hashlib.sha256(path.read_bytes()).hexdigest() != BUNDLED[name].sha256:
            raise ValueError(
                f"{path} is not the file that came with Mixer Lite (its sha256 differs): "
                f"install the project again."
            )
        return load_checkpoint(path)
    if name in FROM_TIMM:
        return _load_from_timm(name)
    near = difflib.get_close_matches(str(name), list_pretrained(), n=2, cutoff=0.4)
    hint = f"Did you mean {' or '.join(near)}?" if near else ""
    raise ValueError(
        f"There are no trained weights named {name!r}. {hint} "
        f"list_pretrained() lists them; load_checkpoint(path) opens a file of your own."
    )


def _load_from_timm(name: str) -> MlpMixer:
    import timm

    try:
        theirs: Any = timm.create_model(name, pretrained=True)
    except Exception as error:  # timm, the hub client and their HTTP layers raise many kinds
        raise ConnectionError(
            f"The weights {name} are not in the cache and could not be downloaded "
            f"({type(error).__name__}): connect to the network and run this again."
        ) from error
    state = from_timm_state_dict(theirs.state_dict())
    model = MlpMixer(**read_arguments(state))
    model.load_state_dict(state)
    cfg = theirs.pretrained_cfg
    model.config = ModelConfig(
        name=name,
        image_size=cfg["input_size"][-1],
        mean=tuple(cfg["mean"]),
        std=tuple(cfg["std"]),
        interpolation=cfg["interpolation"],
        crop=cfg["crop_pct"],
        class_names=imagenet_names(model.num_classes),
        source=FROM_TIMM[name],
    )
    return model.eval()
