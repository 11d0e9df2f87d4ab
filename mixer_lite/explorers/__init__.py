"""Live views of the course's figures: they hold what is chosen and draw nothing themselves.

Importing this package imports ipywidgets; ``mixer_lite`` imports it only when it is used.
"""

from mixer_lite.explorers.filters.page import FilterExplorer, explore_filters
from mixer_lite.explorers.influence.page import InfluenceExplorer, explore_influence
from mixer_lite.explorers.mixer.page import MixerExplorer, explore_mixer
from mixer_lite.explorers.patches.page import PatchExplorer, explore_patches
from mixer_lite.explorers.predictions.page import PredictionExplorer, explore_predictions
from mixer_lite.explorers.training.page import TrainingExplorer, explore_training, watch_training

__all__ = [
    "FilterExplorer",
    "InfluenceExplorer",
    "MixerExplorer",
    "PatchExplorer",
    "PredictionExplorer",
    "TrainingExplorer",
    "explore_filters",
    "explore_influence",
    "explore_mixer",
    "explore_patches",
    "explore_predictions",
    "explore_training",
    "watch_training",
]
