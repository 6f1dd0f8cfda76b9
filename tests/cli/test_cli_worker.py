"""`packhorse worker` as real processes: what signals do, and what ends it."""

from __future__ import annotations

import json
import signal
import time

import pytest
from harness import PATIENCE, Cli

STARTED = "runs 20 jobs at a time"


def test_it_runs_jobs_until_it_is_told_to_stop(cli: Cli) -> None:
    with cli.start("worker", "my_app:app") as worker:
        worker.wait_for(STARTED)
        assert cli("enqueue", "send_email", "address=a", "subject=b").code == 0
        worker.wait_for("sent a b")
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0
    assert "Traceback" not in worker.said
    assert json.loads(cli("workers", "--json").out) == {"pools": [], "busy": []}


def test_drain_runs_what_is_there_and_ends(cli: Cli) -> None:
    for i in range(3):
        assert cli("enqueue", "send_email", f"address=user{i}").code == 0
    assert cli("enqueue", "broken").code == 0
    answer = cli("worker", "--drain")
    assert answer.code == 0, answer.said
    assert answer.out.count("sent user") == 3
    states = json.loads(cli("stats", "--json").out)["states"]
    assert states == {"queued": 0, "scheduled": states["scheduled"], "retry": 0, "dead": 1}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_lets_running_jobs_end(cli: Cli, number: signal.Signals) -> None:
    with cli.start("worker") as worker:
        worker.wait_for(STARTED)
        assert cli("enqueue", "slow", "seconds=1").code == 0
        worker.wait_for("slow begins")
        worker.signal(number)
        assert worker.wait() == 0
        assert "slow ends" in worker.said
    assert json.loads(cli("stats", "--json").out)["states"]["queued"] == 0


def test_a_stop_hands_back_what_does_not_end_in_time(cli: Cli) -> None:
    with cli.start("worker", "--stop-timeout", "200ms") as worker:
        worker.wait_for(STARTED)
        assert cli("enqueue", "slow", "seconds=600").code == 0
        worker.wait_for("slow begins")
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0
    assert json.loads(cli("stats", "--json").out)["states"]["queued"] == 1


def test_a_second_signal_stops_now_and_loses_nothing(cli: Cli) -> None:
    with cli.start("worker", "--stop-timeout", "10m") as worker:
        worker.wait_for(STARTED)
        assert cli("enqueue", "slow", "seconds=600").code == 0
        worker.wait_for("slow begins")
        worker.signal(signal.SIGTERM)
        worker.wait_for("stopping: 1 running")
        worker.signal(signal.SIGTERM)
        worker.wait()
    assert json.loads(cli("stats", "--json").out)["states"]["queued"] == 1


def test_quiet_takes_no_more_jobs_and_stays(cli: Cli) -> None:
    with cli.start("worker") as worker:
        worker.wait_for(STARTED)
        worker.signal(signal.SIGUSR1)
        worker.wait_for("taking no more jobs")
        assert cli("enqueue", "send_email", "address=late").code == 0
        assert worker.process.poll() is None
        worker.signal(signal.SIGINT)
        assert worker.wait() == 0
        assert "sent late" not in worker.said
    assert json.loads(cli("stats", "--json").out)["states"]["queued"] == 1


def test_several_processes_and_their_slots_are_seen(cli: Cli) -> None:
    with cli.start("worker", "--processes", "2", "--concurrency", "3") as worker:
        worker.wait_for("runs 3 jobs at a time", times=2)
        assert cli("enqueue", "slow", "seconds=600").code == 0
        worker.wait_for("slow begins")
        seen = _seen(cli)
        assert [pool["concurrency"] for pool in seen["pools"]] == [3, 3]
        assert {pool["pid"] for pool in seen["pools"]}.isdisjoint({worker.process.pid})
        assert [slot["job_name"] for slot in seen["busy"]] == ["slow"]
        table = cli("workers").out
        assert "POOL" in table
        assert "slow" in table
        job = json.loads(cli("jobs", "show", seen["busy"][0]["job_id"], "--json").out)
        assert job["running"][0]["job_name"] == "slow"
        worker.signal(signal.SIGTERM)
        worker.wait_for("stopping: 1 running")
        worker.signal(signal.SIGTERM)
        worker.wait()


def _seen(cli: Cli) -> dict[str, list[dict[str, object]]]:
    """What `packhorse workers` says once a busy slot has been reported."""
    end = time.monotonic() + PATIENCE
    while True:
        seen: dict[str, list[dict[str, object]]] = json.loads(cli("workers", "--json").out)
        if seen["busy"] or time.monotonic() > end:
            return seen


def test_several_apps_in_one_process(cli: Cli, url: str, namespace: str) -> None:
    other = (cli.folder / "my_app.py").read_text().replace("sent", "other sent")
    (cli.folder / "other.py").write_text(other.replace("namespace='unset'", "namespace='unset2'"))
    (cli.folder / "first.py").write_text(f"from my_app import app\napp.use({url!r}, namespace='{namespace}a')\n")
    (cli.folder / "second.py").write_text(f"from other import app\napp.use({url!r}, namespace='{namespace}b')\n")
    both = Cli(cli.folder)
    for module in ("first", "second"):
        assert both("enqueue", "send_email", "address=x", "--app", module).code == 0
    answer = both("worker", "first:app", "second:app", "--drain")
    assert answer.code == 0, answer.said
    assert "\nsent x hello" in f"\n{answer.out}"
    assert "other sent x hello" in answer.out


def test_options_may_end_with_two_dashes(cli: Cli) -> None:
    assert cli("enqueue", "tidy").code == 0
    answer = cli("worker", "--drain", "--", "my_app:app")
    assert answer.code == 0, answer.said
    assert answer.out == "tidied\n"


def test_a_process_is_replaced_after_its_jobs(cli: Cli) -> None:
    with cli.start("worker", "--max-jobs", "1") as worker:
        for round in (1, 2):
            worker.wait_for(STARTED, times=round)
            assert cli("enqueue", "send_email", f"address=user{round}").code == 0
            worker.wait_for(f"sent user{round}")
        worker.wait_for(STARTED, times=3)
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0


def test_logs_as_json_are_json_in_every_line(cli: Cli) -> None:
    assert cli("enqueue", "broken", "n=7").code == 0
    answer = cli("worker", "--drain", "--log-format", "json")
    assert answer.code == 0
    entries = [json.loads(line) for line in answer.err.splitlines()]
    assert {"time", "level", "logger", "message"} <= set(entries[0])
    assert any("broken 7" in entry["message"] for entry in entries)


def test_log_level(cli: Cli) -> None:
    assert cli("worker", "--drain", "--log-level", "error").err == ""


def test_a_changed_file_starts_it_again(cli: Cli) -> None:
    module = cli.folder / "my_app.py"
    source = module.read_text()
    with cli.start("worker", "--reload") as worker:
        worker.wait_for(STARTED)
        module.write_text(source + "\nthis is no python\n")
        worker.wait_for("SyntaxError")
        module.write_text(source.replace('"sent"', '"sent anew"'))
        worker.wait_for(STARTED, times=2)
        assert cli("enqueue", "send_email", "address=a").code == 0
        worker.wait_for("sent anew a")
        worker.signal(signal.SIGINT)
        assert worker.wait() == 0
