"""Names of ImageNet's classes, from timm."""

from __future__ import annotations


def imagenet_names(num_classes: int) -> tuple[str, ...]:
    """The class names of a head with this many outputs; empty where no ImageNet has so many.

    1000 outputs are ImageNet-1k's, 21843 Google's ImageNet-21k, 11221 MIIL's ImageNet-21k-P.
    """
    subset = {1000: "imagenet-1k", 21843: "imagenet-21k-goog", 11221: "imagenet-21k-miil"}
    if num_classes not in subset:
        return ()
    from timm.data import ImageNetInfo

    info = ImageNetInfo(subset[num_classes])
    return tuple(info.index_to_description(i) for i in range(num_classes))
