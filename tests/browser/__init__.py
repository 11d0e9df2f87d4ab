"""A package, so that pytest closes its browser and its JupyterLab at the end of this folder."""
