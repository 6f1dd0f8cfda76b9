"""What every test of the command line starts from: a folder with an App, and ways to run commands in it."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from harness import MY_APP, Cli

from packhorse.cli import root
from packhorse.embedded import EmbeddedServer

Invoke = Callable[..., Result]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """One kind of server is enough here: commands know nothing of it, and what they call is tested on both."""
    with EmbeddedServer(tmp_path_factory.mktemp("valkey")) as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "my_app.py").write_text(MY_APP)
    return tmp_path


@pytest.fixture
def cli(folder: Path, url: str, namespace: str) -> Cli:
    """Commands for a real store; the App is named by the environment."""
    return Cli(folder, {"PACKHORSE_URL": url, "PACKHORSE_NAMESPACE": namespace, "PACKHORSE_APP": "my_app:app"})


@pytest.fixture
def lonely(folder: Path) -> Cli:
    """Commands without a store, an App or an environment."""
    return Cli(folder)


@pytest.fixture
def invoke(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Invoke]:
    """Commands in this process, for the many cases that need no process of their own."""
    monkeypatch.chdir(folder)
    for name in [name for name in os.environ if name.startswith("PACKHORSE_")]:
        monkeypatch.delenv(name)
    modules, path = set(sys.modules), list(sys.path)
    handlers, level = list(logging.getLogger().handlers), logging.getLogger().level

    def run(*args: str, **options: object) -> Result:
        return CliRunner().invoke(root, args, prog_name="packhorse", **options)  # type: ignore[arg-type]

    yield run
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if not name.startswith(("packhorse", "rich", "click")):
            del sys.modules[name]
    logging.getLogger().handlers[:] = handlers
    logging.getLogger().setLevel(level)
