"""The settings of every student's server."""

import os

c = get_config()  # noqa: F821 (JupyterHub and Jupyter give it)
# A kernel that did nothing for half an hour gives its memory back, also behind an open tab.
c.MappingKernelManager.cull_idle_timeout = 1800
c.MappingKernelManager.cull_interval = 60
c.MappingKernelManager.cull_connected = True
c.KernelManager.transport = "ipc"  # sockets in the student's own folder, not ports of the machine
c.ServerApp.terminado_settings = {"shell_command": ["/bin/bash"]}  # a login shell forgets PATH
c.LanguageServerManager.autodetect = False
c.ServerApp.root_dir = os.environ["HOME"]
