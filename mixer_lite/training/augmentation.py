"""The images of a step, changed at random: the recipe's augmentation, by torchvision."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mixer_lite.datasets.cifar import CIFAR10_MEAN
from mixer_lite.training.recipe import Recipe


def augmentation(
    recipe: Recipe,
    num_classes: int,
    size: tuple[int, int] = (32, 32),
    mean: Sequence[float] = CIFAR10_MEAN,
) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """What a step does to its images, bytes ``(b, 3, h, w)``, and labels ``(b,)``.

    The function draws from PyTorch's random numbers and returns images of the same shape and
    labels as class probabilities ``(b, num_classes)``.

    Args:
        recipe: which changes, and how often.
        num_classes: width of the labels.
        size: of the images, ``(height, width)``.
        mean: of their channels, on a 0-1 scale: the grey that fills what is empty.
    """
    from torchvision.transforms import v2

    grey = [round(255 * m) for m in mean]
    one = v2.Compose(
        [
            v2.RandomCrop(size, padding=recipe.shift, padding_mode="reflect"),
            v2.RandomHorizontalFlip(),
        ]
    )
    policy = v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10, fill=grey)
    some = v2.RandomApply([policy], p=recipe.auto_augment)
    erase = v2.RandomErasing(p=recipe.erase, value=grey)
    cutmix = v2.CutMix(num_classes=num_classes)
    mixup = v2.MixUp(alpha=0.5, num_classes=num_classes)  # the paper's strength on ImageNet

    def augment(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        images = torch.stack([one(image) for image in images])
        # Four images share a draw of the policy, which takes a quarter of the time.
        images = torch.cat([some(few) for few in images.split(4)])
        if recipe.erase:
            images = torch.stack([erase(image) for image in images])
        chance = torch.rand(())
        if chance < recipe.cutmix:
            return cutmix(images, labels)  # labels become probabilities (b, num_classes)
        if chance < recipe.cutmix + recipe.mixup:
            return mixup(images.float(), labels)
        return images, F.one_hot(labels, num_classes).float()

    return augment
