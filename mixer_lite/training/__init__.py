"""Training a Mixer: the recipe, the loop, what a run leaves behind, and how a model is measured."""

from mixer_lite.training.augmentation import augmentation
from mixer_lite.training.evaluation import Evaluation, evaluate
from mixer_lite.training.history import MEASURES, read_history
from mixer_lite.training.loop import train
from mixer_lite.training.muon import Muon, flatten_spectrum
from mixer_lite.training.own import OwnImages, own_images
from mixer_lite.training.recipe import (
    LESSON,
    RECIPES,
    Recipe,
    init_weights,
    learning_rate_share,
    make_optimizers,
)
from mixer_lite.training.runs import Moment
from mixer_lite.training.steps import seeded, train_step

__all__ = [
    "LESSON",
    "MEASURES",
    "RECIPES",
    "Evaluation",
    "Moment",
    "Muon",
    "OwnImages",
    "Recipe",
    "augmentation",
    "evaluate",
    "flatten_spectrum",
    "init_weights",
    "learning_rate_share",
    "make_optimizers",
    "own_images",
    "read_history",
    "seeded",
    "train",
    "train_step",
]
