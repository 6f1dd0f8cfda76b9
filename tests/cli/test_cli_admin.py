"""`packhorse queues`, `jobs`, `stats`: what is seen and changed, and that nothing is destroyed unasked."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys

import redis.asyncio
from harness import PATIENCE, Cli


def states(cli: Cli) -> dict[str, int]:
    answer = cli("stats", "--json")
    assert answer.code == 0, answer.said
    found: dict[str, int] = json.loads(answer.out)["states"]
    return found


def fill(cli: Cli, waiting: int = 2, dead: int = 3) -> None:
    """Waiting jobs of send_email, and dead ones of broken."""
    rows = "".join(f'{{"n": {n}}}\n' for n in range(dead))
    assert cli("enqueue", "broken", "-", stdin=rows).code == 0
    assert cli("worker", "--drain").code == 0
    rows = "".join(f'{{"address": "user{n}"}}\n' for n in range(waiting))
    assert cli("enqueue", "send_email", "-", stdin=rows).code == 0


def test_an_empty_store_says_so(cli: Cli, namespace: str) -> None:
    for command in ("queues", "jobs", "workers"):
        answer = cli(command)
        assert answer.code == 0
        assert answer.out.startswith(f"no {command} in namespace {namespace!r}")
    assert "workers:   none" in cli("stats").out
    assert cli("jobs", "list", "--json").out == "[]\n"
    assert "--namespace says whose" in cli("jobs", "list", PACKHORSE_APP="", PACKHORSE_NAMESPACE="").err


def test_queues_are_listed_paused_and_resumed(cli: Cli) -> None:
    assert cli("enqueue", "send_email", "address=a").code == 0
    lines = cli("queues").out.splitlines()
    assert lines[0].split() == ["QUEUE", "WAITING", "OLDEST", "RUNNING", "LIMIT", "STATE"]
    assert lines[1].split()[:2] == ["send_email", "1"]
    assert cli("queues", "pause", "send_email").out == "paused send_email\n"
    assert json.loads(cli("queues", "list", "--json").out)[0]["paused"] is True
    assert cli("queues", "resume", "send_email", "--json").out == '{"resumed":["send_email"]}\n'
    assert json.loads(cli("queues", "--json").out)[0]["paused"] is False


def test_a_mistyped_queue_is_not_paused(cli: Cli) -> None:
    assert cli("enqueue", "send_email", "address=a").code == 0
    for verb in ("pause", "resume", "purge"):
        answer = cli("queues", verb, "send_emial")
        assert answer.code == 1
        assert "there is no queue 'send_emial'" in answer.err
        assert "did you mean send_email?" in answer.err


def test_purge_needs_a_yes(cli: Cli, namespace: str) -> None:
    fill(cli, waiting=2, dead=0)
    answer = cli("queues", "purge", "send_email")
    assert answer.code == 2
    for said in (f"namespace {namespace!r}", "'send_email'", "2 waiting jobs", "--yes"):
        assert said in answer.err
    assert "would delete 2 waiting jobs" in cli("queues", "purge", "send_email", "--dry-run").out
    assert states(cli)["queued"] == 2
    assert cli("queues", "purge", "send_email", "--yes").out == "deleted 2 jobs from send_email\n"
    assert states(cli)["queued"] == 0


def test_bulk_changes_need_a_yes(cli: Cli) -> None:
    fill(cli, waiting=0, dead=3)
    for verb in ("retry", "delete"):
        answer = cli("jobs", verb, "--state", "dead", "--all")
        assert answer.code == 2
        assert f"{verb} 3 dead jobs" in answer.err
        assert f"would {verb} 3 jobs" in cli("jobs", verb, "--state", "dead", "--all", "--dry-run").out
        assert states(cli)["dead"] == 3
    answer = cli("jobs", "delete", "--state", "dead", "--error", "broken 1", "-y", "--json")
    assert json.loads(answer.out) == {"matched": 1, "changed": 1, "dry_run": False}
    assert cli("jobs", "retry", "--state", "dead", "--name", "broken", "--yes").out == "retried 2 jobs\n"
    assert (states(cli)["dead"], states(cli)["queued"]) == (0, 2)
    assert cli("jobs", "delete", "--state", "dead", "--all", "--yes").out == "deleted 0 jobs\n"


def test_on_a_terminal_it_asks(cli: Cli, namespace: str) -> None:
    fill(cli, waiting=2, dead=0)
    code, said = _typed(cli, "n\n", "queues", "purge", "send_email")
    assert code == 1
    assert f"Delete 2 waiting jobs in queue 'send_email' of namespace '{namespace}'" in said
    assert "nothing was changed" in said
    assert states(cli)["queued"] == 2
    code, said = _typed(cli, "y\n", "queues", "purge", "send_email")
    assert code == 0, said
    assert "deleted 2 jobs" in said
    assert states(cli)["queued"] == 0


def _typed(cli: Cli, keys: str, *args: str) -> tuple[int, str]:
    """Run on a terminal, type when it asks, and give its exit code and what was shown."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "packhorse", *args]
    environment = {**os.environ, **cli.env, "TERM": "dumb"}
    process = subprocess.Popen(command, cwd=cli.folder, env=environment, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    said = ""
    try:
        while select.select([ours], [], [], PATIENCE)[0]:
            try:
                part = os.read(ours, 4096).decode()
            except OSError:  # how a pty says that the other side is closed
                break
            said += part
            if keys and "[y/N]" in said:
                os.write(ours, keys.encode())
                keys = ""
        return process.wait(PATIENCE), said
    finally:
        os.close(ours)


def test_jobs_are_listed_by_state_and_page(cli: Cli) -> None:
    fill(cli, waiting=5, dead=3)
    assert cli("enqueue", "tidy", "--in", "1h").code == 0
    everything = json.loads(cli("jobs", "--json").out)
    assert [row["state"] for row in everything if row["name"] in ("broken", "send_email")] == [
        "dead", "dead", "dead", "queued", "queued", "queued", "queued", "queued",
    ]  # fmt: skip
    pages = [
        json.loads(cli("jobs", "list", "--state", "queued", "--limit", "2", "--page", str(page), "--json").out)
        for page in (1, 2, 3, 4)
    ]
    assert [len(page) for page in pages] == [2, 2, 1, 0]
    assert len({row["id"] for page in pages for row in page}) == 5
    found = json.loads(cli("jobs", "list", "--state", "dead", "--error", "broken 2", "--json").out)
    assert [row["args"] for row in found] == [{"n": 2}]
    found = json.loads(cli("jobs", "list", "--queue", "send_email", "--text", "user3", "--json").out)
    assert [row["args"] for row in found] == [{"address": "user3"}]
    assert "more: --page 2" in cli("jobs", "list", "--state", "queued", "--limit", "2").err


def test_one_job_is_shown_retried_and_deleted(cli: Cli) -> None:
    fill(cli, waiting=0, dead=2)
    first, second = [row["id"] for row in json.loads(cli("jobs", "list", "--state", "dead", "--json").out)]
    shown = cli("jobs", "show", first).out
    for said in (
        "state:     dead",
        f"id:        {first}",
        "name:      broken",
        '"n": ',
        "ValueError: broken",
    ):
        assert said in shown
    assert cli("jobs", "retry", first).out == "retried 1 job\n"
    answer = cli("jobs", "retry", first)
    assert answer.code == 1
    assert f"job {first} is queued" in answer.err
    answer = cli("jobs", "delete", second, "nosuchid")
    assert answer.code == 1
    assert "there is no job nosuchid" in answer.err
    assert states(cli)["dead"] == 1
    assert cli("jobs", "delete", second).out == "deleted 1 job\n"
    assert states(cli) == {"queued": 1, "scheduled": states(cli)["scheduled"], "retry": 0, "dead": 0}
    answer = cli("jobs", "show", second)
    assert answer.code == 1
    assert "there is no job" in answer.err


async def test_what_the_store_holds_cannot_drive_the_terminal(
    cli: Cli, raw: redis.asyncio.Redis, namespace: str
) -> None:
    evil = "\x1b]0;owned\x07\x1b[31m\u202e\x9b"
    payload = json.dumps({"name": evil, "id": evil, "t": 1, "args": {"a": evil}, "fails": 1, "err": evil})
    await raw.zadd(f"{namespace}:dead", {payload: 1, b"\xff\x1b[2Jnot json": 2})
    await raw.lpush(f"{namespace}:jobs:{evil}", payload)
    await raw.sadd(f"{namespace}:known_jobs", evil)
    for args in (
        ("jobs",), ("jobs", "--json"), ("queues",), ("queues", "--json"), ("stats",), ("stats", "--json"),
        ("jobs", "show", evil), ("jobs", "show", evil, "--json"), ("jobs", "retry", evil + "x"),
        ("queues", "purge", evil), ("queues", "pause", evil + "x"),
    ):  # fmt: skip
        answer = cli(*args)
        assert "Traceback" not in answer.err, args
        for char in "\x1b\x07\u202e\x9b":
            assert char not in answer.said, (args, answer.said)
    shown = json.loads(cli("jobs", "show", evil, "--json").out)
    assert shown["rows"][0]["id"] == evil
    assert shown["rows"][0]["args"] == {"a": evil}
    unreadable = [row for row in json.loads(cli("jobs", "--json").out) if not row["readable"]]
    assert len(unreadable) == 1
    assert "not json" in unreadable[0]["payload"]


def test_stats_live(cli: Cli) -> None:
    with cli.start("stats", "--watch", "--every", "100ms") as watching:
        watching.wait_for("queued:    0", times=2)
        assert cli("enqueue", "send_email", "address=a").code == 0
        watching.wait_for("queued:    1")
        watching.process.send_signal(2)
        assert watching.wait() == 0
    assert "Traceback" not in watching.said


def test_cron_gives_the_next_times(cli: Cli) -> None:
    answer = cli("cron", "--json")
    assert answer.code == 0, answer.said
    (row,) = json.loads(answer.out)
    assert (row["spec"], row["name"], len(row["next"])) == ("0 30 4 * * *", "tidy", 5)
    assert all(82_800 <= b - a <= 90_000 for a, b in zip(row["next"], row["next"][1:], strict=False))
    lines = cli("cron").out.splitlines()
    assert len(lines) == 6
    assert lines[1].startswith("tidy")


def test_bench_measures_and_leaves_nothing_behind(cli: Cli) -> None:
    for processes in ("1", "2"):
        answer = cli("bench", "--jobs", "500", "--processes", processes, "--json")
        assert answer.code == 0, answer.said
        rows = json.loads(answer.out)
        assert len(rows) == 4
        assert all(row["per_second"] > 0 for row in rows)
    assert "packhorse-bench" not in cli("bench", "--jobs", "100").out
    assert cli("bench", "--jobs", "100", PACKHORSE_URL="").code == 0


async def test_bench_deletes_its_keys(cli: Cli, raw: redis.asyncio.Redis) -> None:
    assert cli("bench", "--jobs", "500").code == 0
    assert [key async for key in raw.scan_iter("packhorse-bench-*")] == []
