"""JupyterHub for a class on one Linux server; docs/hub.md says how to start it.

Accounts are the machine's own, in the groups ``students`` and ``teachers``. The proxy runs beside
the hub and students' servers outlive it, so that a restart of the hub disturbs nobody.
"""

import grp
import os
import resource
import sys
from pathlib import Path

from jupyterhub.spawner import LocalProcessSpawner

HERE = Path(__file__).resolve().parent
COURSE = HERE.parents[1]
STATE = Path(os.environ.get("MIXER_HUB", "/srv/mixer-hub"))  # made by prepare.sh
PYTHON = Path(sys.executable).parent  # one environment for the hub, the servers and the kernels
MEMORY, CORES = "2G", 2  # for each student; docs/hub.md says what was measured

c = get_config()  # noqa: F821 (JupyterHub and Jupyter give it)

c.JupyterHub.bind_url = os.environ.get("MIXER_HUB_URL", "http://127.0.0.1:8000")
c.JupyterHub.db_url = f"sqlite:///{STATE / 'private' / 'hub.sqlite'}"
c.JupyterHub.cookie_secret_file = str(STATE / "private" / "cookie_secret")
c.JupyterHub.cleanup_servers = False
c.JupyterHub.concurrent_spawn_limit = 20
c.ConfigurableHTTPProxy.should_start = False
c.ConfigurableHTTPProxy.api_url = os.environ.get("MIXER_HUB_PROXY", "http://127.0.0.1:8001")
c.ConfigurableHTTPProxy.auth_token = (
    (STATE / "private" / "proxy_token").read_text(encoding="utf-8").strip()
)

c.JupyterHub.authenticator_class = "pam"
c.PAMAuthenticator.allowed_groups = {"students", "teachers"}
c.PAMAuthenticator.admin_groups = {"teachers"}


class LimitedSpawner(LocalProcessSpawner):
    """Limits without systemd: memory for each process of a student, a few cores for all of them.

    A kernel that wants too much gets a MemoryError, which its notebook shows; it goes on living.
    """

    def make_preexec_fn(self, name):  # noqa: D102
        become = super().make_preexec_fn(name)
        memory, cores = self.mem_limit, round(self.cpu_limit)
        every = sorted(os.sched_getaffinity(0))
        first = self.user.id * cores
        mine = {every[(first + k) % len(every)] for k in range(cores)}

        def limits():
            become()
            resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
            os.sched_setaffinity(0, mine)

        return limits


# systemd keeps all processes of a student together below the limits.
systemd = Path("/run/systemd/system").exists()
c.JupyterHub.spawner_class = "systemd" if systemd else LimitedSpawner
c.SystemdSpawner.isolate_tmp = True
c.Spawner.mem_limit = MEMORY
c.Spawner.cpu_limit = CORES
c.Spawner.cmd = [str(HERE / "start.sh")]
c.Spawner.default_url = "/lab"
c.Spawner.start_timeout = 120
c.Spawner.http_timeout = 120


def settings(spawner):
    """Say where the settings lie: everybody's, and a student's or a teacher's."""
    teacher = spawner.user.name in grp.getgrnam("teachers").gr_mem
    ours = COURSE / "mixer_lite" / "_support" / "jupyter"
    folders = [HERE / ("teachers" if teacher else "students"), HERE / "jupyter", ours]
    spawner.environment["JUPYTER_CONFIG_PATH"] = os.pathsep.join(map(str, folders))


c.Spawner.pre_spawn_hook = settings
c.Spawner.environment = {
    "PATH": f"{PYTHON}{os.pathsep}{os.environ['PATH']}",
    "MIXER_HUB": str(STATE),
    "OMP_NUM_THREADS": str(CORES),
}

# Servers that nobody used for an hour stop; what is saved stays. Kernels: jupyter_server_config.py.
IDLE = 3600
c.JupyterHub.services = [
    {
        "name": "idle-culler",
        "command": [sys.executable, "-m", "jupyterhub_idle_culler", f"--timeout={IDLE}"],
    }
]
c.JupyterHub.load_roles = [
    {
        "name": "idle-culler",
        "scopes": ["list:users", "read:users:activity", "read:servers", "delete:servers"],
        "services": ["idle-culler"],
    }
]
