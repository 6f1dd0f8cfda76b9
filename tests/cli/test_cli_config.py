"""Settings: flag before environment before file before the App's own; a wrong file says where it is wrong."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from harness import Cli

from conftest import Invoke
from packhorse.cli import config
from packhorse.cli.options import Given

# (packhorse.toml, what must be said)
FILES = [
    ("url = ", ("packhorse.toml", "line 1", "column 7")),
    ("\n\nurl == 'x'", ("line 3", "column")),
    ("url = 'x'\nurl = 'y'", ("packhorse.toml", "line 2")),
    ("ulr = 'redis://x'", ("unknown key 'ulr'", "did you mean url?")),
    ("concurrency = 5", ("unknown key 'concurrency'", "[worker]")),
    ("[worker]\nconcurency = 5", ("unknown key 'worker.concurency'", "did you mean worker.concurrency?")),
    ("[worker]\nxyz = 5", ("unknown key 'worker.xyz'", "known keys")),
    ("[worker]\nconcurrency = 'many'", ("worker.concurrency must be a whole number", "'many'")),
    ("[worker]\nconcurrency = true", ("worker.concurrency must be a whole number", "True")),
    ("[worker]\nconcurrency = 0", ("--concurrency", "1<=x", "from the settings file")),
    ("[worker]\nstop-timeout = 'soon'", ("--stop-timeout", "from the settings file")),
    ("[worker]\nlog_level = 'loud'", ("--log-level", "from the settings file")),
    ("worker = 5", ("worker must be a table",)),
    ("url = 5", ("url must be text, not 5",)),
    ("app = [1]", ("app must be a text",)),
    ("url = 'http://x'", ("redis://", "from packhorse.toml")),
    ("a = " + "[" * 5000, ("packhorse.toml",)),
]


@pytest.mark.parametrize(("text", "said"), FILES, ids=[row[0][:40] for row in FILES])
def test_a_wrong_file_says_where(invoke: Invoke, folder: Path, text: str, said: tuple[str, ...]) -> None:
    (folder / "packhorse.toml").write_text(text)
    result = invoke("worker", "my_app:app")
    assert result.exit_code == 2, result.output
    for part in said:
        assert part in result.stderr


def test_a_file_that_cannot_be_read(invoke: Invoke, folder: Path) -> None:
    assert "nix.toml: the settings file cannot be read" in invoke("stats", "--config", "nix.toml").stderr
    (folder / "dir.toml").mkdir()
    assert "is no file" in invoke("stats", "--config", "dir.toml").stderr
    assert "is no file" in invoke("stats", "--config", "/dev/zero").stderr
    (folder / "latin.toml").write_bytes(b"url = '\xe9'")
    assert "byte 7 is not UTF-8" in invoke("stats", "--config", "latin.toml").stderr
    with (folder / "huge.toml").open("wb") as file:
        file.truncate(100 << 20)
    assert "too many" in invoke("stats", env={"PACKHORSE_CONFIG": "huge.toml"}).stderr


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf# a comment\nnamespace = 'x'\n"])
def test_empty_files_and_byte_order_marks_are_fine(invoke: Invoke, folder: Path, content: bytes) -> None:
    (folder / "packhorse.toml").write_bytes(content)
    result = invoke("cron", "--app", "my_app:app")
    assert result.exit_code == 0, result.output


def test_a_broken_project_file_matters_only_when_it_speaks_of_packhorse(invoke: Invoke, folder: Path) -> None:
    project = folder / "pyproject.toml"
    project.write_text("[project\n")
    assert invoke("cron", "--app", "my_app:app").exit_code == 0
    project.write_text("[tool.packhorse\n")
    assert invoke("cron", "--app", "my_app:app").exit_code == 2


def test_a_file_that_everybody_may_write_is_warned_of(lonely: Cli) -> None:
    path = lonely.folder / "packhorse.toml"
    path.write_text("app = 'my_app:app'")
    path.chmod(0o666)
    answer = lonely("cron")
    assert answer.code == 0
    assert "chmod o-w" in answer.err


def test_who_wins(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for name in [name for name in os.environ if name.startswith("PACKHORSE_")]:
        monkeypatch.delenv(name)
    given = Given()
    assert config.resolve(given, "url", config.settings(given)) == (None, "")
    (folder / "pyproject.toml").write_text("[tool.packhorse]\nurl = 'redis://project'\n")
    assert config.resolve(given, "url", config.settings(given)) == ("redis://project", "pyproject.toml")
    (folder / "packhorse.toml").write_text("url = 'redis://file'\nworker.stop-timeout = '1m'\n")
    assert config.resolve(given, "url", config.settings(given)) == ("redis://file", "packhorse.toml")
    assert config.settings(given).worker == {"stop_timeout": "1m"}
    monkeypatch.setenv("PACKHORSE_URL", "redis://environment")
    assert config.resolve(given, "url", config.settings(given)) == ("redis://environment", "PACKHORSE_URL")
    given.url = "redis://flag"
    assert config.resolve(given, "url", config.settings(given)) == ("redis://flag", "--url")
    given.config = "pyproject.toml"
    assert config.settings(given).top["url"] == "redis://project"


def test_a_flag_behind_the_command_wins_over_one_before_it(lonely: Cli) -> None:
    answer = lonely("--url", "redis://127.0.0.1:1/1", "stats", "--url", "redis://127.0.0.1:1/2")
    assert "127.0.0.1:1/2 cannot be reached" in answer.err
    answer = lonely("--url", "redis://127.0.0.1:1/1", "queues", "list")
    assert "127.0.0.1:1/1 cannot be reached" in answer.err


def test_a_worker_takes_its_settings_from_the_file(cli: Cli, url: str, namespace: str) -> None:
    (cli.folder / "packhorse.toml").write_text(
        f"app = 'my_app:app'\nurl = '{url}'\nnamespace = '{namespace}'\n"
        "[worker]\nconcurrency = 3\nlog-format = 'json'\n"
    )
    alone = Cli(cli.folder)
    answer = alone("worker", "--drain")
    assert answer.code == 0, answer.said
    assert "3 at a time" in answer.err
    assert answer.err.startswith("{")
    assert "7 at a time" in alone("worker", "--drain", PACKHORSE_CONCURRENCY="7").err
    assert "9 at a time" in alone("worker", "--drain", "-c", "9", PACKHORSE_CONCURRENCY="7").err


def test_a_list_of_apps_is_for_workers(invoke: Invoke, folder: Path) -> None:
    (folder / "packhorse.toml").write_text("app = ['my_app:app', 'my_app:app']")
    result = invoke("stats")
    assert result.exit_code == 2
    assert "--app" in result.stderr
