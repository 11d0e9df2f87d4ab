"""The teacher's course folder: ~/mixer."""

import os

c = get_config()  # noqa: F821 (JupyterHub and Jupyter give it)
c.CourseDirectory.root = os.path.expanduser("~/mixer")
