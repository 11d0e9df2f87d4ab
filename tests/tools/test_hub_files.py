"""The files of the hub: they load, hold together, and do on this machine what they can do alone."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import yaml
from traitlets.config import Config

ROOT = Path(__file__).resolve().parents[2]
HUB = ROOT / "tools" / "hub"
PAGE = (ROOT / "docs" / "hub.md").read_text(encoding="utf-8")
VALUES = yaml.safe_load((HUB / "values.yaml").read_text(encoding="utf-8"))
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a hub runs on Linux")


class Local:
    """In the place of JupyterHub's spawner, which starts a server as another user."""

    def make_preexec_fn(self, name):
        return lambda: None


@pytest.fixture
def loaded(tmp_path, monkeypatch):
    """The configuration, loaded as JupyterHub loads it: its settings and its names."""
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "proxy_token").write_text("a token\n", encoding="utf-8")
    monkeypatch.setenv("MIXER_HUB", str(tmp_path))
    for name in ("jupyterhub", "jupyterhub.spawner"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["jupyterhub.spawner"].LocalProcessSpawner = Local
    path, c = HUB / "jupyterhub_config.py", Config()
    names = {"c": c, "get_config": lambda: c, "__file__": str(path)}
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), names)
    return c, names


def test_the_configuration_loads(loaded, tmp_path):
    c, _ = loaded
    assert c.ConfigurableHTTPProxy.auth_token == "a token"
    assert c.JupyterHub.cleanup_servers is False and c.ConfigurableHTTPProxy.should_start is False
    assert str(tmp_path) in c.JupyterHub.db_url
    (command,) = c.Spawner.cmd
    assert os.access(command, os.X_OK)
    roles = {name for role in c.JupyterHub.load_roles for name in role["services"]}
    assert roles == {service["name"] for service in c.JupyterHub.services}


def test_a_student_is_held_to_memory_and_cores(loaded):
    _, names = loaded
    spawner = names["LimitedSpawner"]()
    spawner.mem_limit, spawner.cpu_limit = 300 * 2**20, 1
    spawner.user, spawner.log = SimpleNamespace(id=7), None
    code = (
        "import os\n"
        "print(len(os.sched_getaffinity(0)))\n"
        "print(len(bytearray(50 * 2**20)))\n"
        "try:\n    bytearray(400 * 2**20)\nexcept MemoryError:\n    print('stopped')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], preexec_fn=spawner.make_preexec_fn("ann"),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["1", str(50 * 2**20), "stopped"]


def test_students_share_the_cores_evenly(loaded, monkeypatch):
    _, names = loaded
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    given: list[int] = []
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cores: given.extend(cores))
    monkeypatch.setattr(names["resource"], "setrlimit", lambda *limits: None)
    for number in range(1, 9):
        spawner = names["LimitedSpawner"]()
        spawner.mem_limit, spawner.cpu_limit = 2**31, 2
        spawner.user = SimpleNamespace(id=number)
        spawner.make_preexec_fn("ann")()
    assert sorted(given) == sorted(2 * list(range(8)))


def test_only_teachers_get_the_grading_panels(loaded, monkeypatch):
    _, names = loaded
    groups = SimpleNamespace(getgrnam=lambda name: SimpleNamespace(gr_mem=["eve"]))
    monkeypatch.setitem(names, "grp", groups)
    found = {}
    for name in ("eve", "ann"):
        spawner = SimpleNamespace(user=SimpleNamespace(name=name), environment={})
        names["settings"](spawner)
        folders = spawner.environment["JUPYTER_CONFIG_PATH"].split(os.pathsep)
        assert all(Path(folder).is_dir() for folder in folders)
        found[name] = [Path(folder).name for folder in folders]
    assert found == {
        "eve": ["teachers", "jupyter", "jupyter"],
        "ann": ["students"] + 2 * ["jupyter"],
    }


def test_a_server_starts_with_the_lessons_and_keeps_what_the_student_changed(tmp_path):
    home, tools, state = (tmp_path / name for name in ("home", "tools", "state"))
    for folder in (home, tools, state / "cache"):
        folder.mkdir(parents=True)
    (state / "cache" / "cifar10.npz").write_bytes(b"pictures")
    server = tools / "jupyterhub-singleuser"
    server.write_text('#!/bin/sh\necho "$@" "$MIXER_LITE_CACHE" "$PWD"\n', encoding="utf-8")
    server.chmod(0o755)
    places = {"HOME": str(home), "MIXER_HUB": str(state), "PATH": f"{tools}:{os.environ['PATH']}"}

    def start():
        command = [HUB / "start.sh", "--port=1"]
        done = subprocess.run(command, env=places, capture_output=True, text=True, check=True)
        return done.stdout.split()

    cache = home / ".cache" / "mixer-lite"
    assert start() == ["--port=1", str(cache), str(home)]
    lessons = {path.name for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert {path.name for path in (home / "lessons").iterdir()} == lessons | {"maps"}
    assert (cache / "cifar10.npz").read_bytes() == b"pictures"
    mine, gone = sorted((home / "lessons").glob("*.ipynb"))[:2]
    mine.write_text("mine", encoding="utf-8")
    gone.unlink()
    start()
    assert mine.read_text(encoding="utf-8") == "mine" and gone.exists()


def test_one_limit_everywhere(loaded):
    c, _ = loaded
    one = VALUES["singleuser"]
    assert c.Spawner.mem_limit == one["memory"]["limit"]
    assert c.Spawner.cpu_limit == one["cpu"]["limit"]
    assert one["extraEnv"]["OMP_NUM_THREADS"] == c.Spawner.environment["OMP_NUM_THREADS"]
    assert f"--timeout={VALUES['cull']['timeout']}" in c.JupyterHub.services[0]["command"]
    assert f"`{c.Spawner.mem_limit}`" in PAGE


def test_the_image_is_the_one_of_the_values():
    image = "{name}:{tag}".format(**VALUES["singleuser"]["image"])
    dockerfile = (HUB / "Dockerfile").read_text(encoding="utf-8")
    assert f"-t {image} " in dockerfile and not image.endswith("latest")
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.M)
    assert version and image.endswith(f":{version[1]}")
    assert f'CMD ["{VALUES["singleuser"]["cmd"]}"]' in dockerfile


def test_the_page_says_what_to_fill_in():
    text = (HUB / "values.yaml").read_text(encoding="utf-8")
    text = re.sub(r"#.*", "", text)
    holes = set(re.findall(r"(?<![\w_])[A-Z]{4,}(?![\w_])", text))
    assert holes == {"REGISTRY", "HOST", "EMAIL"}
    (sentence,) = re.findall(r"Fill in [^.]*", PAGE)
    assert all(f"`{hole}`" in sentence for hole in holes)
    # helm refuses a chart that is to fetch a certificate for nobody
    assert VALUES["proxy"]["https"]["letsencrypt"]["contactEmail"]


def test_the_page_adds_up():
    took = {name: int(mb) for name, mb in re.findall(r"^\| (.+) \| (\d+) \|$", PAGE, re.M)}
    for first, second, sum_ in re.findall(r"(\d+) \+ (\d+) MB = ([\d.]+) GB", PAGE):
        assert {int(first), int(second)} <= set(took.values())
        assert float(sum_) == round((int(first) + int(second)) / 1000, 2)
    sums = re.findall(r"(\d+) GB[^(.]*\((\d[\d.× +]+)\)", PAGE)
    assert len(sums) == 3
    for gigabytes, terms in sums:
        products = (term.split(" × ") for term in terms.split(" + "))
        assert round(sum(int(n) * float(each) for n, each in products)) == int(gigabytes)


def test_the_page_names_files_that_are_there():
    named = set(re.findall(r"`(tools/hub/[\w./-]+)`", PAGE))
    assert {HUB / "jupyterhub_config.py", HUB / "values.yaml"} <= {ROOT / name for name in named}
    for name in named:
        assert (ROOT / name).exists(), name
    ours = {path for path in HUB.iterdir() if path.is_file()}
    assert ours <= {ROOT / name for name in named}


@pytest.mark.parametrize("script", sorted(HUB.glob("*.sh")), ids=lambda path: path.name)
def test_scripts_are_for_any_shell(script):
    assert os.access(script, os.X_OK)
    subprocess.run(["sh", "-n", script], check=True)
