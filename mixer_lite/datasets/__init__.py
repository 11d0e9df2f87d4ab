"""Images with their classes: CIFAR-10, folders of your own, data sets of the Hugging Face hub."""

from mixer_lite._support.files import data_path
from mixer_lite.datasets.cifar import (
    CIFAR10_MEAN,
    CIFAR10_STD,
    Cifar10,
    cifar10,
    cifar10_or_sample,
    cifar10_sample,
)
from mixer_lite.datasets.folders import Folder, channel_statistics, hub_images, image_folder
from mixer_lite.datasets.labelled import class_indices

__all__ = [
    "CIFAR10_MEAN",
    "CIFAR10_STD",
    "Cifar10",
    "Folder",
    "channel_statistics",
    "cifar10",
    "cifar10_or_sample",
    "cifar10_sample",
    "class_indices",
    "data_path",
    "hub_images",
    "image_folder",
]
