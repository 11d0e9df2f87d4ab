"""tools/browser.py: a browser is found, installed, or its lack said in one sentence."""

import subprocess
from types import SimpleNamespace

from lab import tool


def test_what_is_found_starts():
    path = tool.find()
    assert path and tool._starts(path)
    assert not tool._starts("/nowhere/chromium")


def test_main_says_the_path_or_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr(tool, "find", lambda: "/found")
    assert tool.main() == 0 and capsys.readouterr().out == "/found\n"
    monkeypatch.setattr(tool, "find", lambda: None)
    monkeypatch.setattr(tool, "install", lambda: None)
    assert tool.main() == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and "install one" in said.err


def test_ways_of_installing_are_tried_until_a_browser_is_there(monkeypatch):
    tried, there = [], []

    def run(command, **_):
        tried.append(command)
        if "apt-get" in command and "chromium" in command:
            there.append("/usr/bin/chromium")
        return SimpleNamespace(returncode=0 if "apt-get" in command else 1)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(tool, "find", lambda: there[0] if there else None)
    monkeypatch.setattr(tool.os, "geteuid", lambda: 0, raising=False)
    monkeypatch.setattr(tool.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert tool.install() == "/usr/bin/chromium"
    assert "--with-deps" in tried[0] and tried[1][-2:] == ["install", "chromium"]
    assert tried[-1] == ["apt-get", "install", "-y", "chromium"]
    # Without root nothing is asked of the system.
    tried.clear(), there.clear()
    monkeypatch.setattr(tool.os, "geteuid", lambda: 1000, raising=False)
    assert tool.install() is None
    assert [command[-2:] for command in tried] == [["install", "chromium"]]
