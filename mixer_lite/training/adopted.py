"""A module of the reader's own, taken for a Mixer: trained, watched and saved as one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mixer_lite.model import MlpMixer
from mixer_lite.specs import create_model, spec


class Adopted(MlpMixer):
    """A named Mixer that asks another module for its answers and shares all its weights.

    What looks into a model finds the weights where :class:`MlpMixer` has them; what calls it,
    calls the module.

    Attributes:
        module: the reader's own, which is trained in place.
    """

    def __init__(self, module: nn.Module, name: str, num_classes: int):
        sizes: dict[str, Any] = {**spec(name), "num_classes": num_classes}
        with torch.device("meta"):  # without memory and random numbers: the weights are there
            super().__init__(**sizes)
        for path, weight in module.named_parameters(remove_duplicate=False):
            place, _, leaf = path.rpartition(".")
            setattr(self.get_submodule(place), leaf, weight)
        self._own = (module,)  # in a tuple, so that no weight is listed twice

    @property
    def module(self) -> nn.Module:
        """The reader's own."""
        return self._own[0]

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(b, num_classes)``, as the module answers ``(b, 3, h, w)``."""
        return self.module(images)

    def train(self, mode: bool = True) -> Adopted:
        """The module too is then in training, or not."""
        self.module.train(mode)
        return super().train(mode)


def adopted(module: Any, name: str, num_classes: int) -> MlpMixer:
    """A Mixer as it is, and any other module with all the weights of the named Mixer adopted.

    Args:
        module: what a ``build`` returned.
        name: one of ``list_models()``.
        num_classes: logits of an image.

    Raises:
        ValueError: it is no module, or its weights or its logits are not those of this Mixer.
    """
    if isinstance(module, MlpMixer):
        return module
    if not isinstance(module, nn.Module):
        raise ValueError(f"build must return a torch.nn.Module, not {type(module).__name__}.")
    with torch.device("meta"):
        like = create_model(name, num_classes=num_classes)
    found, wanted = ({k: tuple(v.shape) for k, v in m.state_dict().items()} for m in (module, like))
    wrong = [f"{k} is missing" for k in wanted if k not in found]
    wrong += [f"{k} is {found[k]} and not {wanted[k]}" for k in wanted
              if k in found and found[k] != wanted[k]]  # fmt: skip
    wrong += [f"{k} is not known" for k in found if k not in wanted]
    if wrong:
        more = f", and {len(wrong) - 3} others" if len(wrong) > 3 else ""
        raise ValueError(
            f"The module that build returned has not the weights of {name}: "
            f"{', '.join(wrong[:3])}{more}. Name its parts as MlpMixer does, and give them its "
            f"sizes, spec({name!r}) with num_classes={num_classes}."
        )
    with torch.no_grad():
        answer = module(torch.zeros(1, 3, *like.image_size))
    said = tuple(answer.shape) if isinstance(answer, Tensor) else f"a {type(answer).__name__}"
    if said != (1, num_classes):
        raise ValueError(
            f"The module that build returned answers one image with {said}, not "
            f"(1, {num_classes}): let it return a logit for each class."
        )
    mixer = Adopted(module, name, num_classes)
    mixer.config = like.config
    return mixer
