"""Live views of the course's figures: they hold what is chosen and draw nothing themselves.

Importing this package imports ipywidgets; ``mixer_lite`` imports it only when it is used.
"""

from mixer_lite.explorers.patches import PatchExplorer, explore_patches

__all__ = ["PatchExplorer", "explore_patches"]
