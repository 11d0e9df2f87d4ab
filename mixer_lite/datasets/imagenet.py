"""Classes of ImageNet, from timm."""

from __future__ import annotations

import functools
from typing import Any

# Outputs of a head -> the ImageNet that has so many: 1k, Google's 21k, MIIL's 21k-P.
_SUBSETS = {1000: "imagenet-1k", 21843: "imagenet-21k-goog", 11221: "imagenet-21k-miil"}


@functools.cache
def imagenet_info(num_classes: int) -> Any:
    """timm's ``ImageNetInfo`` of a head with this many outputs; None where no ImageNet has so many.

    1000 outputs are ImageNet-1k's, 21843 Google's ImageNet-21k, 11221 MIIL's ImageNet-21k-P.
    """
    if num_classes not in _SUBSETS:
        return None
    from timm.data import ImageNetInfo

    return ImageNetInfo(_SUBSETS[num_classes])


def imagenet_names(num_classes: int) -> tuple[str, ...]:
    """The class names of a head with this many outputs; empty where no ImageNet has so many."""
    info = imagenet_info(num_classes)
    return tuple(info.index_to_description(i) for i in range(num_classes)) if info else ()
