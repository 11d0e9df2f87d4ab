"""nbgrader's settings for everybody on the hub."""

import os

c = get_config()  # noqa: F821 (JupyterHub and Jupyter give it)
c.CourseDirectory.course_id = "mixer"
c.Exchange.root = os.path.join(os.environ["MIXER_HUB"], "exchange")
