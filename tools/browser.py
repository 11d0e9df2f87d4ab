"""Find a browser for the browser tests, or install one: python tools/browser.py.

Prints the path of the browser. Ends with one sentence and status 1 where none can be had.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = (
    "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome",
    "microsoft-edge", "msedge",
)  # fmt: skip
PLACES = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge",
    "C:/Program Files/Google/Chrome/Application/chrome.exe",
    "C:/Program Files (x86)/Microsoft/Edge/Application/msedge.exe",
)


def find() -> str | None:
    """Path of a Chromium, Chrome or Edge that starts, Playwright's own last; else None."""
    for path in (*map(shutil.which, NAMES), *PLACES, _own()):
        if path and Path(path).is_file() and _starts(path):
            return path
    return None


def _own() -> str | None:
    # Asked in its own process: Playwright can be started only once in each.
    code = (
        "from playwright.sync_api import sync_playwright\n"
        "with sync_playwright() as p: print(p.chromium.executable_path)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return done.stdout.strip() or None


def _starts(path: str) -> bool:
    # On Ubuntu, chromium-browser may be no more than a hint to install something. Edge and Chrome
    # on Windows answer --version with a window.
    if os.name == "nt":
        return True
    try:
        done = subprocess.run([path, "--version"], capture_output=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def install() -> str | None:
    """Install Chromium through Playwright, else through Debian's packages; its path or None."""
    playwright = [sys.executable, "-m", "playwright", "install", "chromium"]
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    ways = [[*playwright[:-1], "--with-deps", "chromium"]] if root or os.name == "nt" else []
    ways.append(playwright)
    if root and shutil.which("apt-get"):
        ways += [["apt-get", "update"], ["apt-get", "install", "-y", "chromium"]]
    for way in ways:
        # What they say goes to stderr: stdout is the path alone.
        if subprocess.run(way, stdout=sys.stderr).returncode == 0 and (path := find()):
            return path
    return None


def main() -> int:
    """Print the browser's path, installing it first where there is none."""
    path = find() or install()
    if path is None:
        print(
            "The browser tests need Chromium, Chrome or Edge: none was found, and none could be "
            "installed; install one and run the tests again.",
            file=sys.stderr,
        )
        return 1
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
