"""Odd surroundings: closed and broken pipes, no colour, warnings as errors, optimised Python, locales."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from harness import PATIENCE, Cli

import packhorse
from conftest import Invoke
from packhorse.cli.output import moment, plain, span
from packhorse.cli.root import COMMANDS


def test_version_and_help(invoke: Invoke) -> None:
    assert invoke("--version").output == f"packhorse {packhorse.__version__}\n"
    bare = invoke()
    assert bare.exit_code == 0
    assert bare.output == invoke("--help").output == invoke("-h").output
    for name in COMMANDS:
        page = invoke(name, "--help")
        assert page.exit_code == 0
        if name == "demo":
            continue
        assert "packhorse " in page.output.split("Options:")[0].split("\n", 1)[1], f"{name} shows no example"


def test_both_ways_to_start_it(lonely: Cli) -> None:
    script = Path(sys.executable).with_name("packhorse")
    assert lonely("--version").out == f"packhorse {packhorse.__version__}\n"
    if script.exists():
        assert subprocess.run([script, "--version"], capture_output=True, check=True).stdout


def test_a_reader_that_goes_away_is_no_error(cli: Cli) -> None:
    rows = "".join(f'{{"address": "user{n}", "subject": "{"x" * 500}"}}\n' for n in range(2000))
    assert cli("enqueue", "send_email", "-", stdin=rows).code == 0
    line = "packhorse jobs list --state queued --limit 2000 | head -1; echo ${PIPESTATUS[0]}"
    answer = cli.shell(line)
    assert answer.out.splitlines()[0].startswith("STATE")
    assert answer.out.splitlines()[1] == "141"
    assert answer.err == ""
    assert cli.shell("packhorse --help | head -1").err == ""


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_closed_streams_do_no_harm(cli: Cli, closed: str) -> None:
    answer = cli.shell(f"packhorse enqueue send_email address=a {closed}; echo code $?")
    assert "code 0" in answer.out
    assert "Traceback" not in answer.said
    answer = cli.shell(f"packhorse stats {closed}; echo code $?")
    assert "code 0" in answer.out
    assert json.loads(cli("stats", "--json").out)["states"]["queued"] == 1


def test_a_worker_with_closed_streams(cli: Cli) -> None:
    assert cli("enqueue", "send_email", "address=a").code == 0
    assert "code 0" in cli.shell("packhorse worker --drain <&- >&- 2>&-; echo code $?").out
    assert json.loads(cli("stats", "--json").out)["states"]["queued"] == 0


def test_a_full_disk_is_told(cli: Cli) -> None:
    answer = cli.shell("packhorse stats > /dev/full; echo code $?")
    assert "code 1" in answer.out
    assert "No space left" in answer.err
    assert "Traceback" not in answer.err


@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_no_colour_where_none_is_wanted(cli: Cli, env: dict[str, str]) -> None:
    assert cli("enqueue", "send_email", "address=a").code == 0
    for command in ("stats", "queues", "jobs", "--help"):
        said = _on_a_terminal(cli, command, **env)
        assert "\x1b" not in said
        assert "packhorse" in said or "send_email" in said
    assert "\x1b[1m" in _on_a_terminal(cli, "queues")


def _on_a_terminal(cli: Cli, *args: str, **env: str) -> str:
    ours, theirs = pty.openpty()
    environment = {"PATH": os.environ["PATH"], "TERM": "xterm", **cli.env, **env}
    process = subprocess.Popen(
        [sys.executable, "-m", "packhorse", *args],
        cwd=cli.folder,
        env=environment,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    said = b""
    try:
        while part := os.read(ours, 4096):
            said += part
    except OSError:  # how a pty says that the other side is closed
        pass
    finally:
        os.close(ours)
    assert process.wait(PATIENCE) == 0
    return said.decode()


def test_pipes_get_plain_aligned_text(cli: Cli) -> None:
    assert cli("enqueue", "send_email", "address=" + "x" * 300).code == 0
    answer = cli("jobs", FORCE_COLOR="1")
    assert "\x1b" not in answer.out
    assert "x" * 300 in answer.out


def test_warnings_as_errors_and_no_asserts(cli: Cli) -> None:
    for python in (("-W", "error"), ("-OO",), ("-X", "dev", "-W", "error")):
        for args in (("--help",), ("enqueue", "send_email", "address=a"), ("jobs",), ("stats",), ("queues",)):
            answer = cli(*args, python=python)
            assert answer.code == 0, (python, answer.said)
            assert answer.err == "", (python, args)
        answer = cli("worker", "--drain", python=python)
        assert answer.code == 0, answer.said
        assert "Warning" not in answer.err
        assert "sent a hello" in answer.out
    assert "Run jobs until stopped" in cli("worker", "--help", python=("-OO",)).out


@pytest.mark.parametrize(
    "env",
    [{"LANG": "C", "LC_ALL": "C"}, {"LC_ALL": "POSIX", "PYTHONUTF8": "0"}, {"PYTHONIOENCODING": "ascii"}],
)
def test_plain_locales(cli: Cli, env: dict[str, str]) -> None:
    answer = cli("enqueue", "send_email", "address=ünïcode", "subject=日本", **env)
    assert answer.code == 0, answer.said
    answer = cli("jobs", **env)
    assert answer.code == 0, answer.said
    (row,) = json.loads(cli("jobs", "--json").out)
    assert row["args"]["address"] == "ünïcode"


def test_a_home_that_cannot_be_written(cli: Cli) -> None:
    assert cli("stats", HOME="/nonexistent").code == 0


def test_the_password_is_nowhere(cli: Cli) -> None:
    secret = "gehe1m"
    url = f"redis://ann:{secret}@127.0.0.1:1/0"
    for args in (("stats", "-vv"), ("worker", "-vv"), ("enqueue", "tidy", "-vv"), ("bench", "-vv")):
        answer = cli(*args, PACKHORSE_URL=url)
        assert answer.code == 1, answer.said
        assert secret not in answer.said
        assert "ann:***@" in answer.said
    answer = cli("stats", "--url", url)
    assert secret not in answer.said
    assert "warning: a password on the command line" in answer.err


def test_commands_do_not_load_what_draws_tables(lonely: Cli) -> None:
    loaded = "[name for name in sys.modules if name.startswith('rich')]"
    script = f"import sys, packhorse.cli.worker, packhorse.cli.enqueue; print({loaded})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(cli: Cli, shell: str) -> None:
    answer = cli("completion", shell)
    assert answer.code == 0
    assert "_PACKHORSE_COMPLETE" in answer.out
    assert "To install: " in answer.out


def test_bash_completes(lonely: Cli) -> None:
    answer = lonely(_PACKHORSE_COMPLETE="bash_complete", COMP_WORDS="packhorse queues pu", COMP_CWORD="2", IFS="\n")
    assert answer.out.split() == ["plain,purge"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"), ("ünï 日本", "ünï 日本"), ("a\nb\tc", "a\\nb\\tc"), ("\x1b[31m", "\\x1b[31m"),
        ("\x7f\x9b", "\\x7f\\x9b"), ("\u202e\u2028\ufeff", "\\u202e\\u2028\\ufeff"), ("\udcff", "\\udcff"),
    ],
)  # fmt: skip
def test_what_cannot_be_seen_is_escaped(text: str, shown: str) -> None:
    assert plain(text) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0s"),
        (0.25, "0.2s"),
        (9.96, "10s"),
        (59, "59s"),
        (61, "1m1s"),
        (5400, "1h30m"),
        (90061, "1d1h"),
        (-1, "0s"),
    ],
)
def test_spans(seconds: float, shown: str) -> None:
    assert span(seconds) == shown


def test_moments_of_any_size() -> None:
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d$", moment(1_600_000_000))
    assert moment(1e18) == "1e+18"
    assert moment(None) == ""
