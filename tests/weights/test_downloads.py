"""Weights from the hub and from plain servers, with everything that can go wrong on the way.

The hub is tests/hub.py; the clients, huggingface_hub and pooch, are the real ones.
"""

import gzip
import hashlib
import inspect
import io
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import torch
from hub import COMMIT, Hub
from huggingface_hub import constants
from safetensors.torch import load, save

import mixer_lite as ml
from mixer_lite._support import files as files_of_ours
from mixer_lite.weights import downloads, pretrained
from mixer_lite.weights.checkpoints import from_timm_state_dict

TIMM = "mixer_b16_224.goog_in21k_ft_in1k"
GOOGLE = "google/mixer_b16_224.imagenet1k"
OPENMMLAB = "openmmlab/mixer_b16_224.imagenet1k"
DIALECTS = {TIMM: ("exact", 1e-6), GOOGLE: ("tanh", 1e-6), OPENMMLAB: ("exact", 1e-5)}
SIZES = {**ml.specs.spec("mixer_pico_cifar10"), "num_classes": 1000}


def weights():
    """A small Mixer under timm's names, random but the same at every call."""
    torch.manual_seed(7)
    model = ml.create_model("mixer_pico_cifar10", num_classes=1000)
    return ml.to_timm_state_dict(model)


def is_whole(model: ml.MlpMixer) -> bool:
    ours = from_timm_state_dict(weights())
    return all(torch.equal(v, ours[k]) for k, v in model.state_dict().items())


def files() -> tuple[bytes, bytes, bytes]:
    """The same weights as timm, Google and OpenMMLab write them."""
    model, pth = ml.MlpMixer(**SIZES), io.BytesIO()
    model.load_state_dict(from_timm_state_dict(weights()))
    torch.save({"meta": {}, "state_dict": ml.to_openmmlab_state_dict(model)}, pth)
    with tempfile.TemporaryDirectory() as folder:
        ml.to_google_npz(model, Path(folder) / "a.npz")
        npz = (Path(folder) / "a.npz").read_bytes()
    return save(weights()), npz, pth.getvalue()


SAFETENSORS, NPZ, PTH = files()


def fresh_client() -> None:
    # The hub's client keeps its connections, and the proxies that it found when it made them.
    old = getattr(huggingface_hub.utils, "reset_sessions", None)
    (old or huggingface_hub.close_session)()


def set_constants(monkeypatch, **values) -> None:
    # Older releases of the client have copies where they use them.
    for name, value in values.items():
        monkeypatch.setattr(constants, name, value)
        monkeypatch.setattr(f"huggingface_hub.file_download.{name}", value, raising=False)


def set_endpoint(monkeypatch, url: str) -> None:
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    set_constants(monkeypatch, ENDPOINT=url, HUGGINGFACE_CO_URL_TEMPLATE=template)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Every source of weights on 127.0.0.1, caches in a folder of the test, no patience."""
    server = Hub()
    set_endpoint(monkeypatch, server.url)
    set_constants(monkeypatch, HF_HUB_CACHE=str(tmp_path / "hub"), HF_HUB_OFFLINE=False)
    set_constants(monkeypatch, HF_HUB_DOWNLOAD_TIMEOUT=0.2)
    monkeypatch.setattr(downloads, "TIMEOUT", 0.2)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setenv("MIXER_LITE_CACHE", str(tmp_path / "cache"))
    for variable in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.lower(), raising=False)
    server.add(f"timm/{TIMM}", "model.safetensors", SAFETENSORS)
    server.files["/imagenet1k/Mixer-B_16.npz"] = NPZ
    name = f"mlp-mixer/mixer-{hashlib.sha256(PTH).hexdigest()[:8]}.pth"
    server.files[f"/{name}"] = PTH
    small(monkeypatch, TIMM)
    small(
        monkeypatch, GOOGLE, where=f"{server.url}/imagenet1k/Mixer-B_16.npz", mib=len(NPZ) / 2**20
    )
    small(monkeypatch, OPENMMLAB, where=f"{server.url}/{name}", sha256=name[-12:-4])
    fresh_client()
    yield server
    server.close()
    fresh_client()


def small(monkeypatch, name: str, **changes) -> None:
    row = replace(pretrained.PUBLISHED[name], sizes=SIZES, **changes)
    monkeypatch.setitem(pretrained.PUBLISHED, name, row)


def weights_in(folder: Path) -> list[Path]:
    """Files that are, or might be taken for, weights; the client's ``.incomplete`` never are."""
    files = [p for p in folder.rglob("*") if p.is_file() and p.suffix != ".incomplete"]
    return [p for p in files if p.stat().st_size > 1000]


@pytest.mark.parametrize("name", [TIMM, GOOGLE, OPENMMLAB])
def test_downloaded_once_then_no_network_is_asked(hub, name, tmp_path):
    assert ml.describe_pretrained(name).here is None and hub.asked == []
    model = ml.load_pretrained(name)
    assert is_whole(model) and not model.training
    assert model.config.name == name and model.config.class_names[281].startswith("tabby")
    assert (model.gelu, model.norm_eps) == DIALECTS[name]
    assert model.config.source.startswith(ml.describe_pretrained(name).source)
    hub.asked.clear()
    hub.fault = "stall"
    assert is_whole(ml.load_pretrained(name)) and hub.asked == []
    here = ml.describe_pretrained(name).here
    assert here is not None and tmp_path in here.parents
    if name != TIMM:
        digest, file = here.with_name(here.name + ".sha256").read_text().split()
        assert file == here.name and digest == hashlib.sha256(here.read_bytes()).hexdigest()


def test_files_of_one_name_and_size_are_not_taken_for_one_another(hub, monkeypatch):
    # As Google's are, trained with SAM and without.
    other = "google/mixer_b16_224.sam"
    url = f"{hub.url}/sam/Mixer-B_16.npz"
    small(monkeypatch, other, where=url, mib=len(NPZ) / 2**20)
    ml.load_pretrained(GOOGLE)
    assert ml.describe_pretrained(GOOGLE).here and ml.describe_pretrained(other).here is None
    hub.files["/sam/Mixer-B_16.npz"] = NPZ
    ml.load_pretrained(other)
    places = [downloads._place(row.where) for row in pretrained.PUBLISHED.values()]
    assert len(set(places)) == len(places)


def test_the_older_file_of_a_repository_will_do(hub):
    del hub.files[f"/timm/{TIMM}/resolve/main/model.safetensors"]
    older = io.BytesIO()
    torch.save(weights(), older)
    hub.add(f"timm/{TIMM}", "pytorch_model.bin", older.getvalue())
    assert is_whole(ml.load_pretrained(TIMM))
    assert ml.describe_pretrained(TIMM).here.name == "pytorch_model.bin"


def test_what_another_program_left_in_the_hubs_cache_is_used(hub, tmp_path):
    # As timm.create_model(..., pretrained=True) leaves it.
    repo, cache = f"timm/{TIMM}", constants.HF_HUB_CACHE
    huggingface_hub.hf_hub_download(repo, "model.safetensors", revision="main", cache_dir=cache)
    hub.asked.clear()
    assert is_whole(ml.load_pretrained(TIMM)) and hub.asked == []


# What goes wrong at every source, and what the user is told: fault, reason, remedy.
FAULTS = [
    (401, "asks for a login (HTTP 401)", "check whether a mirror or a proxy needs a login"),
    (403, "refuses the file (HTTP 403)", "try without the firewall or the proxy that may forbid"),
    (404, "has no such file (HTTP 404)", "look whether it has moved"),
    (407, "the proxy wants a login (HTTP 407)", "put name and password into HTTPS_PROXY"),
    (429, "has had too many requests from here (HTTP 429)", "wait a few minutes"),
    (500, "has a problem (HTTP 500)", "try again later"),
    (503, "has a problem (HTTP 503)", "try again later"),
    ("stall", "was silent for too long", "try again when the network is better"),
    ("stall body", "was silent for too long", "try again when the network is better"),
    ("page", "a web page came, perhaps a login page", "try again or from another network"),
    ("login", "a web page came, perhaps a login page", "try again or from another network"),
    ("cut", "broke off", "try again"),
    ("altered", "sha256 begins with", "try again or from another network"),
]


@pytest.mark.parametrize("fault, reason, remedy", FAULTS, ids=[str(row[0]) for row in FAULTS])
@pytest.mark.parametrize("name", [TIMM, OPENMMLAB])
def test_fault_is_told_in_one_sentence_and_the_second_try_is_clean(
    hub, name, fault, reason, remedy, tmp_path
):
    hub.fault = fault
    began = time.monotonic()
    with pytest.raises(ConnectionError) as error:
        ml.load_pretrained(name)
    told = str(error.value)
    assert time.monotonic() - began < 6  # 60 and more times the patience that is set here
    assert reason in told and remedy in told and "\n" not in told
    url = ml.describe_pretrained(name).url
    by_hand = f"fetch {url} by hand and open it with load_pretrained({name!r}, file="
    assert told.startswith(f"{name} is not in the cache and could not be downloaded: ")
    assert by_hand in told
    assert weights_in(tmp_path) == [] and ml.describe_pretrained(name).here is None
    hub.fault = None
    assert is_whole(ml.load_pretrained(name))
    assert len({p.resolve() for p in weights_in(tmp_path)}) == 1


def test_google_publishes_no_checksum_but_damage_is_found(hub, tmp_path):
    hub.fault = "page"
    with pytest.raises(ConnectionError, match="a web page came"):
        ml.load_pretrained(GOOGLE)
    hub.fault = None
    hub.files["/imagenet1k/Mixer-B_16.npz"] = NPZ[: len(NPZ) - 20_000]
    with pytest.raises(ConnectionError, match=r"the file has 1\.\d\d MiB and not the published"):
        ml.load_pretrained(GOOGLE)
    middle = len(NPZ) // 2
    hub.files["/imagenet1k/Mixer-B_16.npz"] = NPZ[:middle] + b"x" * 100 + NPZ[middle + 100 :]
    with pytest.raises(ConnectionError, match=r"the file is damaged in its part MixerBlock_"):
        ml.load_pretrained(GOOGLE)
    assert weights_in(tmp_path) == []
    hub.files["/imagenet1k/Mixer-B_16.npz"] = NPZ
    assert is_whole(ml.load_pretrained(GOOGLE))


def test_connection_that_breaks_is_taken_up_where_it_broke(hub, monkeypatch):
    set_constants(monkeypatch, DOWNLOAD_CHUNK_SIZE=1000)  # of 10 MiB: more than the file
    hub.fault, hub.times = "cut", 1
    try:
        model = ml.load_pretrained(TIMM)
    except ConnectionError:  # older releases of the client go on at the next call
        model = ml.load_pretrained(TIMM)
    assert is_whole(model)
    ranges = {span for method, _, span in hub.asked if method == "GET"}
    assert ranges == {"", f"bytes={len(SAFETENSORS) // 2 // 1000 * 1000}-"}


@pytest.mark.parametrize("name", [TIMM, OPENMMLAB])
@pytest.mark.parametrize("fault", [429, 500, "stall"])
def test_what_passes_is_asked_again(hub, name, fault):
    hub.fault, hub.times = fault, 2
    assert is_whole(ml.load_pretrained(name))


@pytest.mark.parametrize("name", [TIMM, OPENMMLAB])
@pytest.mark.parametrize("fault", [403, 404, "page"])
def test_what_does_not_pass_is_not_asked_again(hub, name, fault):
    hub.fault = fault
    with pytest.raises(ConnectionError):
        ml.load_pretrained(name)
    assert len(hub.asked) == 1


@pytest.mark.parametrize("name", [TIMM, OPENMMLAB])
def test_no_network(hub, name):
    hub.close()  # now nobody listens there
    with pytest.raises(ConnectionError, match=r"there is no connection to 127\.0\.0\.1") as error:
        ml.load_pretrained(name)
    assert "connect to the network" in str(error.value) and "\n" not in str(error.value)


def test_offline_by_wish(hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    fresh_client()
    with pytest.raises(ConnectionError, match="HF_HUB_OFFLINE forbids the network; unset it"):
        ml.load_pretrained(TIMM)
    assert hub.asked == []


@pytest.mark.parametrize("name", [TIMM, OPENMMLAB])
@pytest.mark.parametrize(
    "fault, words",
    [
        (403, "the proxy refuses to connect to example.invalid; check HTTPS_PROXY"),
        (407, r"the proxy wants a login \(HTTP 407\); put name and password into HTTPS_PROXY"),
    ],
)
def test_proxy_that_refuses(hub, name, fault, words, monkeypatch):
    far = "https://example.invalid"  # no such host can exist: only the proxy is ever asked
    set_endpoint(monkeypatch, far)
    small(monkeypatch, OPENMMLAB, where=f"{far}/a.pth")
    monkeypatch.setenv("HTTPS_PROXY", hub.url)
    fresh_client()
    hub.fault = fault
    with pytest.raises(ConnectionError, match=words) as error:
        ml.load_pretrained(name)
    assert "\n" not in str(error.value)
    assert {(method, path) for method, path, _ in hub.asked} == {("CONNECT", "example.invalid:443")}


@pytest.mark.parametrize(
    "name, variable", [(TIMM, "HF_HUB_CACHE"), (OPENMMLAB, "MIXER_LITE_CACHE")]
)
def test_cache_that_cannot_be_written(hub, name, variable, tmp_path):
    for folder in ("hub", "cache"):
        (tmp_path / folder).write_text("a file where the folder should be")
    with pytest.raises(OSError, match=f"nothing can be stored in .*; set {variable} to") as error:
        ml.load_pretrained(name)
    assert "\n" not in str(error.value) and "by hand" in str(error.value)
    assert not isinstance(error.value, ConnectionError)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot limit the size of files")
@pytest.mark.parametrize(
    "name, variable", [(TIMM, "HF_HUB_CACHE"), (OPENMMLAB, "MIXER_LITE_CACHE")]
)
def test_full_disk(hub, name, variable, tmp_path):
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, before[1]))  # the system refuses more
    try:
        with pytest.raises(OSError, match=r"the disk is full at .*; make room or set ") as error:
            ml.load_pretrained(name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert variable in str(error.value) and "\n" not in str(error.value)
    assert weights_in(tmp_path) == []
    assert is_whole(ml.load_pretrained(name))


def test_files_brought_by_hand(hub, tmp_path):
    hub.close()
    for name, data in ((TIMM, SAFETENSORS), (GOOGLE, NPZ), (OPENMMLAB, PTH)):
        end = ml.describe_pretrained(name).url.rsplit(".", 1)[1]
        (tmp_path / f"mine.{end}").write_bytes(data)
        model = ml.load_pretrained(name, file=tmp_path / f"mine.{end}")
        assert is_whole(model) and model.config.name == name
    (tmp_path / "mine.pth").write_bytes(PTH[:-1] + b"x")
    with pytest.raises(ValueError, match=r"mine\.pth is not openmmlab/.*: the file's sha256"):
        ml.load_pretrained(OPENMMLAB, file=tmp_path / "mine.pth")
    (tmp_path / "mine.npz").write_bytes(NPZ[:-20_000])
    with pytest.raises(ValueError, match=r"mine\.npz is not google/.*MiB and not the published"):
        ml.load_pretrained(GOOGLE, file=tmp_path / "mine.npz")
    other = ml.create_model("mixer_pico_cifar10")
    ml.save_checkpoint(other, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="it holds 306,826 parameters and 10 classes, not 434"):
        ml.load_pretrained(TIMM, file=tmp_path / "other.safetensors")
    with pytest.raises(FileNotFoundError, match="There is no checkpoint file"):
        ml.load_pretrained(TIMM, file=tmp_path / "nothing.safetensors")


def test_a_file_that_changed_in_the_cache_is_fetched_again(hub):
    for name, whole in ((TIMM, SAFETENSORS), (GOOGLE, NPZ)):
        ml.load_pretrained(name)
        here = ml.describe_pretrained(name).here
        for changed in (whole[:1000], whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:]):
            here.resolve().write_bytes(changed)
            assert is_whole(ml.load_pretrained(name))
            assert here.read_bytes() == whole


def test_damaged_cache_is_told(hub, tmp_path, monkeypatch):
    ml.load_pretrained(TIMM)
    monkeypatch.setattr(downloads, "_as_named", lambda kept: True)  # by an older version, say
    here = ml.describe_pretrained(TIMM).here
    here.resolve().write_bytes(SAFETENSORS[:1000])
    with pytest.raises(ValueError, match=r"model\.safetensors .*: delete .* and run this") as e:
        ml.load_pretrained(TIMM)
    told = re.search(r"delete (.*) and run this again\.$", str(e.value))[1]
    assert "\n" not in str(e.value)
    Path(told).unlink()  # a link to it remains
    assert is_whole(ml.load_pretrained(TIMM))


def test_nothing_is_advised_about_files_outside_the_cache(hub, tmp_path):
    ml.load_pretrained(TIMM)
    here, outside = ml.describe_pretrained(TIMM).here, tmp_path / "passwd"
    outside.write_text("root:x:0:0", encoding="utf-8")
    here.unlink()
    here.symlink_to(outside)
    with pytest.raises(ValueError, match="a link out of the cache; remove the link") as error:
        ml.load_pretrained(TIMM)
    assert "delete" not in str(error.value)
    assert outside.exists()


def test_what_a_killed_download_left_is_removed(hub, tmp_path):
    folder = tmp_path / "cache" / "weights" / "mlp-mixer"
    folder.mkdir(parents=True)
    ages = {"tmpdead0000": 3600, "tmpalive000": 1, "tmp_theirs.txt": 3600}
    for name, age in ages.items():
        (folder / name).write_bytes(b"half")
        os.utime(folder / name, (time.time() - age,) * 2)
    ml.load_pretrained(OPENMMLAB)
    assert not (folder / "tmpdead0000").exists() and (folder / "tmpalive000").exists()
    assert (folder / "tmp_theirs.txt").exists()


def test_a_folder_that_is_a_link_is_not_swept(hub, tmp_path):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "tmpdead0000").write_bytes(b"theirs")
    os.utime(theirs / "tmpdead0000", (time.time() - 3600,) * 2)
    (tmp_path / "cache" / "weights").mkdir(parents=True)
    (tmp_path / "cache" / "weights" / "mlp-mixer").symlink_to(theirs)
    ml.load_pretrained(OPENMMLAB)
    assert (theirs / "tmpdead0000").exists()


@pytest.fixture
def came(monkeypatch):
    """The bars that bound downloads, which count bytes."""
    bars, real = [], files_of_ours.bounded

    def counting(*arguments):
        class Counting(real(*arguments)):
            def __init__(self, *args, **kwargs):
                super().__init__(*args, **kwargs)
                bars.append(self)

        return Counting

    monkeypatch.setattr(files_of_ours, "bounded", counting)
    monkeypatch.setattr(downloads, "bounded", counting)
    return bars


def too_long(hub, path, packed):
    hub.files[path] = bytes((30 if packed else 12) * 2**20)
    if packed:
        hub.files[path] = gzip.compress(hub.files[path])
        hub.headers[path] = {"Content-Encoding": "gzip"}


@pytest.mark.parametrize("packed", [False, True])
def test_a_download_stops_where_the_published_size_ends(hub, tmp_path, came, packed):
    too_long(hub, "/far/too.npz", packed)
    with pytest.raises(ConnectionError, match=r"more came than the published 1\.67 MiB"):
        downloads.from_url(f"{hub.url}/far/too.npz", mib=1.67, sha256="", name="it", call="open()")
    assert len(came) == 1 and came[0].came < 5 * 2**20  # bytes, and asked once
    assert not list((tmp_path / "cache").rglob("t*"))


@pytest.mark.skipif(
    "tqdm_class" not in inspect.signature(huggingface_hub.hf_hub_download).parameters,
    reason="older clients of the hub cannot be stopped",
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_download_from_the_hub_stops_where_its_stated_size_ends(
    hub, tmp_path, came, monkeypatch, packed
):
    path = f"/timm/{TIMM}/resolve/main/model.safetensors"
    too_long(hub, path, packed)
    hub.headers.setdefault(path, {})["X-Linked-Size"] = str(len(SAFETENSORS))
    set_constants(monkeypatch, DOWNLOAD_CHUNK_SIZE=2**20)
    with pytest.raises(ConnectionError, match=r"more came than the published \d\.\d\d MiB"):
        ml.load_pretrained(TIMM)
    assert len(came) == 1 and came[0].came < len(SAFETENSORS) + 4 * 2**20
    assert not weights_in(tmp_path) and not list(tmp_path.rglob("*.incomplete"))


def test_a_size_that_the_weights_cannot_have_is_not_begun(hub):
    path = f"/timm/{TIMM}/resolve/main/model.safetensors"
    hub.headers[path] = {"X-Linked-Size": str(10**11)}
    with pytest.raises(ConnectionError, match=r"names a file of 95,367 MiB where these weights"):
        ml.load_pretrained(TIMM)
    assert all(method == "HEAD" for method, *_ in hub.asked)


def test_a_password_in_an_address_is_not_told():
    url = "https://me:secret@example.org/a\x1b[31m\nb/c.npz"
    error = downloads.explained(
        OSError("no\x1b[2J\nuse x.load(unsafe)"), name="it", url=url, call="open()",
        folder="/cache", variable="CACHE",
    )  # fmt: skip
    assert "secret" not in str(error) and str(error).isprintable()


def test_two_processes_at_once(hub, tmp_path):
    # Processes of their own, which also find the hub and the caches by environment variables.
    url = ml.describe_pretrained(OPENMMLAB).where
    code = (
        "import hashlib, sys; from mixer_lite.weights import downloads as d; "
        f"a = d.from_url({url!r}, mib=None, sha256={url[-12:-4]!r}, name='a', call='c'); "
        f"b = d.from_hub('timm/{TIMM}', name='b', call='c'); "
        "print(a, b, *(hashlib.sha256(p.read_bytes()).hexdigest() for p in (a, b)))"
    )
    drop = {"HF_HUB_OFFLINE", "HF_HUB_CACHE"}
    environment = {k: v for k, v in os.environ.items() if k not in drop} | {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "home"),
        "MIXER_LITE_CACHE": str(tmp_path / "cache"),
    }
    hub.gate = threading.Barrier(2)  # so that both are at the same file at the same time
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    said = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    first, second = (out.split() for out, _ in said)
    assert first == second
    assert first[2:] == [hashlib.sha256(data).hexdigest() for data in (PTH, SAFETENSORS)]
    assert first[0] == str(tmp_path.joinpath("cache", "weights", *url.split("/")[-2:]))
    repo = tmp_path / "home" / "hub" / f"models--timm--{TIMM}"
    assert first[1] == str(repo / "snapshots" / COMMIT / "model.safetensors")
    assert len({p.resolve() for p in weights_in(tmp_path)}) == 2
    assert load(open(first[1], "rb").read()).keys() == weights().keys()


def test_reason_of_an_untrusted_certificate_or_of_something_else():
    import requests

    said = [
        str(downloads.explained(e, name="n", url="https://h/f", call="c", folder="x", variable="Y"))
        for e in (requests.exceptions.SSLError("a\nb"), RuntimeError("odd {thing}\nhappened"))
    ]
    assert "the certificate of h is not trusted; put the certificate of the proxy" in said[0]
    assert "could not be downloaded: odd {thing} happened; try again later" in said[1]
    assert all("\n" not in text for text in said)
