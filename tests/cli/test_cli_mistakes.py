"""Mistakes of people: each ends with its exit code, one line that names it, and no traceback."""

from __future__ import annotations

import socket

import pytest
from harness import Cli

from conftest import Invoke

PASSWORD = "gehe1m"

# (command line, exit code, what must be said)
MISTAKES: list[tuple[str, int, tuple[str, ...]]] = [
    ("wrker my_app:app", 2, ("no command 'wrker'", "worker")),
    ("my_app:app", 2, ("no command", "packhorse worker my_app:app")),
    ("--colour stats", 2, ("--colour",)),
    ("worker my_app:app --concurency 3", 2, ("--concurency", "--concurrency")),
    ("worker my_app:app --concurrency", 2, ("--concurrency", "argument")),
    ("worker my_app:app --concurrency 0", 2, ("--concurrency", "0", "1<=x<=10000")),
    ("worker my_app:app --concurrency -1", 2, ("--concurrency", "-1")),
    ("worker my_app:app --concurrency 1000000", 2, ("--concurrency", "1000000")),
    ("worker my_app:app --concurrency 2.5", 2, ("--concurrency", "2.5", "integer")),
    ("worker my_app:app --concurrency inf", 2, ("--concurrency", "inf")),
    ("worker my_app:app --processes 0", 2, ("--processes",)),
    ("worker my_app:app --stop-timeout soon", 2, ("--stop-timeout", "soon", "1h30m")),
    ("worker my_app:app --stop-timeout -1", 2, ("--stop-timeout", "-1")),
    ("worker my_app:app --stop-timeout nan", 2, ("--stop-timeout", "nan")),
    ("worker my_app:app --stop-timeout 1e9h", 2, ("--stop-timeout", "1e9h")),
    ("worker my_app:app --max-memory 1", 2, ("--max-memory",)),
    ("worker my_app:app --log-level loud", 2, ("--log-level", "loud", "debug")),
    ("worker", 2, ("which App", "packhorse worker my_app:app")),
    ("worker nowhere:app", 2, ("no module 'nowhere'",)),
    ("worker my_ap:app", 2, ("no module 'my_ap'", "did you mean my_app?")),
    ("worker my_app.py", 2, ("is a file", "my_app:app")),
    ("worker ./my_app.py:app", 2, ("is a file", "my_app:app")),
    ("worker my_app:ap", 2, ("no attribute 'ap'", "my_app:app")),
    ("worker my_app:send_email", 2, ("my_app:send_email is no packhorse App", "my_app:app is one")),
    ("worker my_app:send_email.fn.x", 2, ("no attribute 'x'",)),
    ("worker json:loads", 2, ("json:loads is no packhorse App but a function",)),
    ("worker :app", 2, ("':app' names no module",)),
    ("worker a-b:app", 2, ("'a-b'", "module:app")),
    ("enqueue", 2, ("NAME",)),
    ("enqueue x a=1 --in -5", 2, ("--in", "-5")),
    ("enqueue x --in 5x", 2, ("--in", "5x")),
    ("enqueue x --at tomorrow", 2, ("--at", "tomorrow", "2030-01-31T09:00")),
    ("enqueue x --at 99999999999999", 2, ("--at", "too far")),
    ("enqueue x --in 5 --at 2030-01-01", 2, ("delay and at",)),
    ("enqueue x --key [1]", 2, ("--key", "[1]")),
    ("enqueue x --expires-in 0ms", 2, ("expires_in", "more than 0")),
    ("enqueue x novalue", 2, ("'novalue' is not key=value",)),
    ("enqueue x =1", 2, ("'=1' is not key=value",)),
    ("enqueue x a=1 a=2", 2, ("'a' is given twice",)),
    ("enqueue x {bad", 2, ("{bad", "line 1 column 2")),
    ('enqueue x {"a":NaN}', 2, ("NaN",)),
    ("enqueue x [1]", 2, ("no JSON object",)),
    ("enqueue a,b", 2, ("a,b", "comma")),
    ("enqueue x --id \x07", 2, ("id:",)),
    ("enqueue x --app my_app:app", 2, ("no job 'x'", "send_email")),
    ("enqueue send_emial --app my_app:app", 2, ("no job 'send_emial'", "did you mean send_email?")),
    ("enqueue send_email addres=x --app my_app:app", 2, ("address", "did you mean address?")),
    ("enqueue send_email address=1 --app my_app:app", 2, ("`str`", "$.address", "quotes")),
    ("enqueue send_email address=a b=1 --app my_app:app", 2, ("'b'",)),
    ("enqueue x - --id 7", 2, ("--id",)),
    ("cron", 2, ("none was named", "--app")),
    ("cron --app my_app:nix", 2, ("no attribute 'nix'",)),
    ("jobs list --state running", 2, ("--state", "running", "dead")),
    ("jobs list --state dead --queue x", 2, ("--queue goes with --state queued",)),
    ("jobs list --limit 0", 2, ("--limit",)),
    ("jobs list --page 0", 2, ("--page",)),
    ("jobs retry", 2, ("retry what?",)),
    ("jobs retry --state dead", 2, ("say --all",)),
    ("jobs retry --state queued --all", 2, ("queued",)),
    ("jobs retry 5 --all --state dead", 2, ("ids or a filter",)),
    ("jobs delete --state dead --all --name x", 2, ("--all means no filter",)),
    ("jobs delete --state queued --all", 2, ("--queue",)),
    ("jobs shw 1", 2, ("shw",)),
    ("queues pause", 2, ("QUEUE",)),
    ("completion tcsh", 2, ("tcsh", "bash")),
    ("bench --jobs 1", 2, ("--jobs",)),
]


@pytest.mark.parametrize(("line", "code", "said"), MISTAKES, ids=[row[0] for row in MISTAKES])
def test_a_mistake_is_told_in_one_line(invoke: Invoke, line: str, code: int, said: tuple[str, ...]) -> None:
    result = invoke(*line.split(" "))
    assert result.exit_code == code, result.output
    lines = result.stderr.splitlines()
    assert lines[-1 if len(lines) == 1 else -2].startswith("error: ")
    assert len(lines) <= 2
    assert len(lines) == 1 or lines[-1].startswith("hint: ")
    assert result.stdout == ""
    for text in said:
        assert text in result.stderr


# (url, what must be said)
URLS = [
    ("", "redis://"),
    ("localhost", "redis://"),
    ("localhost:6379", "redis://"),
    (f":{PASSWORD}@localhost", "redis://"),
    ("http://localhost", "redis://"),
    (f"redis://:{PASSWORD}/x@localhost/0", "percent-encode"),
    (f"redis://:{PASSWORD}#x@localhost/0", "percent-encode"),
    (f"redis://:{PASSWORD}?x@localhost/0", "percent-encode"),
    (f"redis://:[{PASSWORD}@localhost/0", "percent-encode"),
    (f"redis://:{PASSWORD}@localhost:text/0", "host or port"),
    (f"redis://:{PASSWORD}@localhost:99999/0", "host or port"),
    (f"redis://:{PASSWORD}@localhost/zero", "number"),
    (f"redis://:{PASSWORD}@localhost/0?speed=9", "speed"),
    (f"rediss://:{PASSWORD}@localhost/0?ssl_cert_reqs=odd", "odd"),
    ("unix://", "socket"),
    ("redis://[::1/0", "host or port"),
]


@pytest.mark.parametrize(("url", "said"), URLS)
def test_a_bad_url_is_told_without_its_password(invoke: Invoke, url: str, said: str) -> None:
    for args in (("stats", "--url", url), ("--url", url, "enqueue", "x")):
        result = invoke(*args)
        assert result.exit_code == 2, result.output
        assert said in result.stderr
        assert PASSWORD not in result.output
        assert "--url" in result.stderr or "url:" in result.stderr


@pytest.mark.parametrize("userinfo", [f":{PASSWORD}", f"ann:{PASSWORD}", f":p@{PASSWORD}:w@rd", f":%zz{PASSWORD}"])
def test_a_closed_port_is_told_without_the_password(invoke: Invoke, userinfo: str) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))  # taken, so that nobody else listens there
        port = probe.getsockname()[1]
        for command in (("stats",), ("worker", "my_app:app"), ("enqueue", "x"), ("queues",), ("jobs",)):
            result = invoke(*command, "--url", f"redis://{userinfo}@127.0.0.1:{port}/0")
            assert result.exit_code == 1, result.output
            assert f"@127.0.0.1:{port}/0 cannot be reached" in result.stderr
            assert "packhorse demo" in result.stderr
            assert PASSWORD not in result.output


def test_a_missing_socket_is_a_run_time_error(invoke: Invoke) -> None:
    result = invoke("stats", "--url", "unix:///nowhere/valkey.sock")
    assert result.exit_code == 1
    assert "cannot be reached" in result.stderr


@pytest.mark.parametrize("namespace", ["a\x1b[31mb", "a\nb", "x" * 201])
def test_an_odd_namespace_is_refused_and_escaped(invoke: Invoke, namespace: str) -> None:
    result = invoke("stats", "--namespace", namespace)
    assert result.exit_code == 2
    assert "namespace:" in result.stderr
    assert "--namespace" in result.stderr
    assert "\x1b" not in result.stderr


def test_the_environment_is_named_when_its_value_is_wrong(invoke: Invoke) -> None:
    result = invoke("worker", "my_app:app", env={"PACKHORSE_CONCURRENCY": "many"})
    assert result.exit_code == 2
    assert "--concurrency" in result.stderr
    assert "from the environment" in result.stderr
    result = invoke("stats", env={"PACKHORSE_URL": "nonsense"})
    assert result.exit_code == 2
    assert "from PACKHORSE_URL" in result.stderr


def test_stdin_is_checked_to_its_last_line_before_anything_is_sent(cli: Cli) -> None:
    rows = '{"address": "a"}\n\n{"address": "b"}\n'
    for bad, said in (("{oops", "no JSON"), ('{"adress": "c"}', "address"), ("7", "no JSON object")):
        answer = cli("enqueue", "send_email", "-", stdin=rows + bad)
        assert answer.code == 2
        assert "stdin, line 4: " in answer.err
        assert said in answer.err
    assert cli("enqueue", "send_email", "-", stdin=b'{"address": "\xff"}').code == 2
    assert '"queued":0' in cli("stats", "--json").out
