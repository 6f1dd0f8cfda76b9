"""The environments of the measured systems, below `.bench` in the project folder and never in git.

One virtual environment per Python system from `peers/requirements/<system>.txt`, one folder of node modules
for BullMQ. An environment is made once, and anew when its pinned versions change.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.driver import BenchError
from benchmarks.processes import ROOT, run

BENCH = ROOT / ".bench"
PEERS = ROOT / "benchmarks" / "peers"
INSTALL_SECONDS = 600.0


def find_python(minimum: tuple[int, int]) -> str | None:
    """An interpreter of at least this version: this one, else one on the PATH, else one kept by pyenv."""
    if sys.version_info[:2] >= minimum:
        return sys.executable
    names = [f"python3.{minor}" for minor in range(minimum[1], minimum[1] + 4)]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    found = [shutil.which(name) for name in names]
    kept = [str(path) for path in sorted(pyenv.glob("versions/3.*/bin/python"), reverse=True)]
    for candidate in [path for path in found if path] + kept:
        if (version := _python_version(candidate)) and version[:2] >= minimum:
            return candidate
    return None


def _python_version(python: str) -> tuple[int, int] | None:
    ask = [python, "-c", "import sys; print(*sys.version_info[:2])"]
    try:
        answer = subprocess.run(ask, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    major, minor = answer.stdout.split()
    return int(major), int(minor)


def venv_python(system: str) -> Path:
    return BENCH / "venvs" / system / "bin" / "python"


def make_venv(system: str, python: str) -> None:
    requirements = PEERS / "requirements" / f"{system}.txt"
    folder = BENCH / "venvs" / system
    stamp = _stamp(requirements.read_bytes(), python)
    if _is_current(folder, stamp):
        return
    shutil.rmtree(folder, ignore_errors=True)
    run([python, "-m", "venv", str(folder)], seconds=INSTALL_SECONDS)
    install = [
        str(venv_python(system)),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--requirement",
        str(requirements),
    ]
    run(install, seconds=INSTALL_SECONDS)
    (folder / "stamp").write_text(stamp)


def node_modules() -> Path:
    return BENCH / "bullmq" / "node_modules"


def make_node_modules() -> None:
    manifest = PEERS / "bullmq" / "package.json"
    folder = BENCH / "bullmq"
    stamp = _stamp(manifest.read_bytes(), "node")
    if _is_current(folder, stamp):
        return
    npm = shutil.which("npm")
    if npm is None:
        raise BenchError("npm is not on the PATH")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shutil.copy(manifest, folder)
    options = ["--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    run([npm, "install", *options], seconds=INSTALL_SECONDS, cwd=folder)
    (folder / "stamp").write_text(stamp)


def installed_version(system: str, package: str) -> str:
    """`<package version>, Python <version>` as the environment itself reports them."""
    ask = (
        "import importlib.metadata as m, platform as p;"
        f"print(m.version({package!r}) + ', Python ' + p.python_version())"
    )
    return run([str(venv_python(system)), "-c", ask], seconds=30).strip()


def installed_node_version(package: str) -> str:
    manifest = json.loads((node_modules() / package / "package.json").read_text())
    node = run(["node", "--version"], seconds=30).strip()
    return f"{manifest['version']}, Node {node}"


def _stamp(pinned: bytes, interpreter: str) -> str:
    return hashlib.sha256(pinned + interpreter.encode()).hexdigest()


def _is_current(folder: Path, stamp: str) -> bool:
    mark = folder / "stamp"
    return mark.exists() and mark.read_text() == stamp
