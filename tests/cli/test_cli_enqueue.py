"""`packhorse enqueue`: what people type becomes what handlers get."""

from __future__ import annotations

import json
import time

from harness import Cli


def jobs(cli: Cli, *args: str) -> list[dict[str, object]]:
    answer = cli("jobs", "list", "--json", *args)
    assert answer.code == 0, answer.said
    rows: list[dict[str, object]] = json.loads(answer.out)
    return rows


def test_values_are_json_when_they_read_as_such_and_text_otherwise(cli: Cli) -> None:
    answer = cli(
        "enqueue", "anything", "count=3", "on=true", "none=null", "big=18446744073709551615",
        'tags=["a", {"b": 1.5}]', "text=hello you", 'quoted="7"', "zip=007", "eq=a=b", "empty=", "nan=NaN",
        "ü=ö", PACKHORSE_APP="",
    )  # fmt: skip
    assert answer.code == 0, answer.said
    (job,) = jobs(cli, "--state", "queued")
    assert job["name"] == "anything"
    assert job["args"] == {
        "count": 3, "on": True, "none": None, "big": 18446744073709551615,
        "tags": ["a", {"b": 1.5}], "text": "hello you", "quoted": "7", "zip": "007",
        "eq": "a=b", "empty": "", "nan": "NaN", "ü": "ö",
    }  # fmt: skip


def test_one_json_object_is_taken_as_it_is(cli: Cli) -> None:
    assert cli("enqueue", "send_email", '{"address": "a", "subject": "b"}').code == 0
    (job,) = jobs(cli, "--state", "queued")
    assert job["args"] == {"address": "a", "subject": "b"}
    assert cli("enqueue", "tidy").code == 0


def test_the_answer_names_the_job(cli: Cli) -> None:
    answer = cli("enqueue", "tidy", "--id", "job-7")
    assert (answer.code, answer.out, answer.err) == (0, "enqueued tidy job-7\n", "")
    answer = cli("enqueue", "tidy", "--json", "--id", "job-8")
    expected = {"id": "job-8", "name": "tidy", "run_at": None, "duplicate": False}
    assert json.loads(answer.out) == expected


def test_later(cli: Cli) -> None:
    start = time.time()
    assert cli("enqueue", "tidy", "--in", "1h30m", "--id", "a").out.startswith("scheduled tidy a for ")
    assert cli("enqueue", "tidy", "--at", "2040-01-31T09:00:00+01:00", "--id", "b").code == 0
    assert cli("enqueue", "tidy", "--at", "2208988800", "--id", "c").code == 0
    found = {row["id"]: row["at"] for row in jobs(cli, "--state", "scheduled")}
    assert found["b"] == 2211609600
    assert found["c"] == 2208988800
    assert isinstance(found["a"], float)
    assert start + 5400 <= found["a"] <= time.time() + 5402


def test_unique_jobs_are_added_once(cli: Cli) -> None:
    assert cli("enqueue", "send_email", "address=a", "--unique").out.startswith("enqueued")
    answer = cli("enqueue", "send_email", "address=a", "--unique")
    assert answer.code == 0
    assert "waits already" in answer.out
    assert cli("enqueue", "send_email", "address=b", "--key", '{"user": 1}').out.startswith("enqueued")
    again = cli("enqueue", "send_email", "address=c", "--key", '{"user": 1}', "--json")
    assert json.loads(again.out)["duplicate"] is True
    assert len(jobs(cli, "--state", "queued")) == 2


def test_many_from_stdin(cli: Cli) -> None:
    lines = "".join(json.dumps({"address": f"user{i}"}) + "\n\n" for i in range(12_000))
    answer = cli("enqueue", "send_email", "-", stdin=lines)
    assert (answer.code, answer.out) == (0, "enqueued 12000 jobs\n")
    assert '"queued":12000' in cli("stats", "--json").out
    answer = cli("enqueue", "send_email", "-", "--unique", "--json", stdin='{"address": "x"}\n{"address": "x"}')
    assert json.loads(answer.out) == {"enqueued": 1, "duplicates": 1}
    assert cli("enqueue", "send_email", "-", stdin="").out == "enqueued 0 jobs\n"


def test_an_expiry_goes_with_the_job(cli: Cli) -> None:
    start = time.time()
    assert cli("enqueue", "tidy", "--expires-in", "1h", "--in", "1h").code == 0
    (job,) = jobs(cli, "--state", "scheduled")
    deadline = json.loads(str(job["payload"]))["deadline"]
    assert start + 7200 <= deadline <= time.time() + 7202
