"""`packhorse demo`: an embedded server, a job per file of the standard library, worker processes for them.

The order is what makes Ctrl-C safe: everything is enqueued before the run is recorded, and recorded before a
worker starts. So a run can be gone on with, or it has not begun. The append-only file keeps the queues.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import signal
import sys
import sysconfig
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from packhorse.admin import Admin
from packhorse.cli.demo_folder import DemoFolder, Run
from packhorse.cli.demo_jobs import RESULTS_VARIABLE, app, count_tokens, read_results
from packhorse.cli.demo_report import Display, Progressed, Summary, dead_jobs, look, show_summary
from packhorse.cli.faults import INTERRUPTED
from packhorse.cli.output import write
from packhorse.clock import tick
from packhorse.embedded import EmbeddedServer
from packhorse.errors import ConfigError, PackhorseError

DEFAULT_DATA = Path(".packhorse/demo")
LOOK_EVERY = 0.1
#: Workers that were told twice to end get this long before they are killed.
KILL_AFTER = 5.0
#: Folders of the standard library that hold other people's code.
FOREIGN = {"site-packages", "dist-packages"}


class DemoFailed(PackhorseError):
    """The demo's workers ended before their work did."""


class Interrupted(Exception):
    """A signal came; everything that was started ends in good order on the way out."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asked for. `source` None = the standard library."""

    data: Path
    processes: int
    resume: bool
    keep_server: bool
    source: Path | None
    limit: int | None


@click.command()
@click.option(
    "--data", type=click.Path(path_type=Path, file_okay=False), default=DEFAULT_DATA, show_default=True,
    help="Folder of the server's data and the results; made if it is not there.",
)  # fmt: skip
@click.option(
    "--processes", type=click.IntRange(1, 256), default=None, help="Worker processes.  [default: one per CPU]"
)
@click.option("--resume", is_flag=True, help="Go on with an interrupted run instead of starting a new one.")
@click.option("--keep-server", is_flag=True, help="Keep the server running at the end, until Ctrl-C.")
@click.option(
    "--source", type=click.Path(path_type=Path, exists=True, file_okay=False), default=None, hidden=True,
    help="Folder to read in place of the standard library.",
)  # fmt: skip
@click.option("--limit", type=click.IntRange(1), default=None, hidden=True, help="Read only so many files.")
def demo(
    data: Path, processes: int | None, resume: bool, keep_server: bool, source: Path | None, limit: int | None
) -> int:
    """Run real jobs on an embedded server: nothing to install or to set up.

    Every .py file of the running Python's standard library, its tests included, is one job, which tokenises,
    counts and hashes it. Files that cannot be read fail, are tried again and end in the dead set.
    """
    options = Options(data, processes or _cpus(), resume, keep_server, source, limit)
    session = Session(options)
    try:
        return asyncio.run(session.run())
    except KeyboardInterrupt:
        # Before the session listened to signals, so nothing has begun.
        write(session.farewell())
        return INTERRUPTED


class Session:
    """One run of the command. The first signal ends it in good order, the second ends the workers at once."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._signalled = asyncio.Event()
        self._code = 0
        self._workers: Workers | None = None
        self._progress: Progressed | None = None

    async def run(self) -> int:
        """Gives the exit code. Errors: PackhorseError."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # Started with nohup it is meant to outlive the terminal.
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                loop.add_signal_handler(number, self._on_signal, number)
        try:
            await self._run()
        except Interrupted:
            write(self.farewell())
        return self._code

    def farewell(self) -> str:
        """How to go on after an interruption."""
        again, now = self._command(), self._progress
        if now is not None:
            how_far = f"{now.ended:,} of {now.total:,} files are through, the others wait in {self._options.data}."
        elif self._options.resume:
            how_far = "the run is as it was."
        else:
            return f"Interrupted before any job ran. Start again with: {again}"
        return f"Interrupted: {how_far}\nGo on with: {again} --resume\nStart anew with: {again}"

    def _command(self) -> str:
        """What to type to run this demo again."""
        folder = self._options.data
        return f"{_program()} demo" + ("" if folder == DEFAULT_DATA else f" --data {shlex.quote(str(folder))}")

    def _on_signal(self, number: signal.Signals) -> None:
        if self._signalled.is_set() and self._workers is not None:
            self._workers.hurry()
        self._signalled.set()
        self._code = 128 + number

    def _checkpoint(self) -> None:
        """Between two steps, as each is short. Errors: Interrupted."""
        if self._signalled.is_set():
            raise Interrupted

    async def _run(self) -> None:
        options = self._options
        with DemoFolder(options.data) as folder:
            server = EmbeddedServer(folder.path, keep=True)
            if options.resume and folder.run() is None:
                raise ConfigError(f"--resume: there is no run in {options.data}; start one without --resume")
            folder.end_old_server()
            folder.claim(server.socket)
            if not options.resume:
                folder.clear()
            self._checkpoint()
            with server:
                write(f"server: Valkey, data in {options.data} (append-only file)")
                async with _admin(server) as admin:
                    run = await (self._recovered(folder, admin) if options.resume else self._enqueued(folder))
                    self._progress = await look(admin, run.total)
                    if not self._progress.settled:
                        run = await self._worked(folder, server, admin, run)
                    await self._report(folder, admin, run)
                    if options.keep_server:
                        await self._stay(server)

    async def _enqueued(self, folder: DemoFolder) -> Run:
        """One job per file, all of them stored before this returns."""
        root = self._options.source.absolute() if self._options.source is not None else _standard_library()
        files = _sources(root)[: self._options.limit]
        self._checkpoint()
        await app.client.enqueue_many_async(count_tokens.prepare(path=str(file)) for file in files)
        self._checkpoint()
        run = Run(str(root), len(files))
        folder.save(run)
        write(f"jobs: {run.total:,} enqueued, one for each .py file of {root}")
        return run

    async def _recovered(self, folder: DemoFolder, admin: Admin) -> Run:
        """The interrupted run. Pools still on the books are dead for certain, as the folder is ours alone."""
        run = folder.run()
        assert run is not None
        guardian = app.protocol.guardian()
        try:
            for pool in await admin.pools():
                await guardian.release(pool.id)
        finally:
            await guardian.close()
        write(f"jobs: going on with the run over {run.source}, {run.total:,} files")
        return run

    async def _worked(self, folder: DemoFolder, server: EmbeddedServer, admin: Admin, run: Run) -> Run:
        """Run everything that is not done; gives the run with its time added."""
        count = self._options.processes
        write(f"workers: {count} process{'es' if count > 1 else ''}, log in {self._options.data}/worker.log")
        assert self._progress is not None
        started = tick()
        self._workers = await Workers.start(folder, server, count)
        try:
            folder.claim(server.socket, self._workers.pid)
            with Display(self._progress) as display:
                await self._watch(admin, self._workers, display)
        finally:
            seconds = run.seconds + tick() - started
            await self._workers.stop()
            run = Run(run.source, run.total, seconds)
            folder.save(run)
        self._progress = await look(admin, run.total)
        self._checkpoint()
        return run

    async def _watch(self, admin: Admin, workers: Workers, display: Display) -> None:
        settled = 0
        # Twice in a row: one look may miss a job that was on its way from one place to another.
        while settled < 2:
            workers.check()
            assert self._progress is not None
            self._progress = now = await look(admin, self._progress.total)
            display.show(now)
            settled = settled + 1 if now.settled else 0
            if await self._signal_within(LOOK_EVERY):
                write("stopping: files in hand are finished first; Ctrl-C again stops at once")
                return

    async def _report(self, folder: DemoFolder, admin: Admin, run: Run) -> None:
        """Show the tables; they come from the results that the jobs wrote and from the store's dead set."""
        dead = await dead_jobs(admin)
        summary = Summary(run.total, read_results(folder.results), dead, run.seconds)
        show_summary(summary, Path(run.source))
        if summary.missing:
            self._code = 1
        if not self._options.keep_server:
            write(f"\nTo look into the store afterwards: {self._command()} --resume --keep-server")

    async def _stay(self, server: EmbeddedServer) -> None:
        """Until a signal."""
        store = f"--url {shlex.quote(server.url)} --namespace {app.namespace}"
        write("\nThe server runs until Ctrl-C. Look at the dead jobs from another terminal with:")
        write(f"{_program()} jobs list --state dead {store}")
        await self._signalled.wait()
        self._code = 0

    async def _signal_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._signalled.wait(), seconds)
        except TimeoutError:
            return False
        return True


class Workers:
    """`packhorse worker` as a child. Its output goes to a file, as the terminal has the bars."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self._log = log

    @classmethod
    async def start(cls, folder: DemoFolder, server: EmbeddedServer, processes: int) -> Workers:
        settings = folder.configure(server.url, app.namespace, processes)
        target = f"{count_tokens.__module__}:app"
        command = [sys.executable, "-m", "packhorse", "worker", target, "--config", str(settings)]
        # What the shell says about other workers is not for these.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PACKHORSE_")}
        environment[RESULTS_VARIABLE] = str(folder.results)
        with folder.worker_log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                # The lock goes with it: no other demo gets the folder while workers of this one live.
                pass_fds=(folder.lock_fd,),
                # Ctrl-C in the terminal is for the demo, which tells the workers.
                start_new_session=True,
            )
        return cls(process, folder.worker_log)

    @property
    def pid(self) -> int:
        return self._process.pid

    def check(self) -> None:
        """Errors: DemoFailed when it has ended."""
        code = self._process.returncode
        if code is not None:
            last = self._log.read_text(errors="replace").strip().splitlines()[-3:]
            raise DemoFailed(f"the workers ended with exit code {code}: {' / '.join(last)} (see {self._log})")

    async def stop(self) -> None:
        """They finish the files in hand, hand back the rest, and end."""
        self._send(signal.SIGTERM)
        await self._process.wait()

    def hurry(self) -> None:
        """They end at once; what they held goes back when the run is gone on with."""
        self._send(signal.SIGTERM)
        asyncio.get_running_loop().call_later(KILL_AFTER, self._send, signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        if self._process.returncode is None:
            self._process.send_signal(number)


@asynccontextmanager
async def _admin(server: EmbeddedServer) -> AsyncIterator[Admin]:
    """The App bound to this server, with an admin; closes the connections of both."""
    app.use(server.url)
    try:
        async with app.admin() as admin:
            yield admin
    finally:
        await app.client.aclose()


def _sources(root: Path) -> list[Path]:
    """Every .py file below, in a stable order; links to nowhere included, as they make good failures."""
    found: list[Path] = []
    for folder, below, files in os.walk(root):
        below[:] = sorted(set(below) - FOREIGN)
        found += [Path(folder, name) for name in sorted(files) if name.endswith(".py")]
    return found


def _standard_library() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def _cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _program() -> str:
    """What to type for this program, as short as it works here."""
    called = Path(sys.argv[0])
    if called.name != "packhorse":
        return f"{shlex.quote(_near(Path(sys.executable)))} -m packhorse"
    found = shutil.which("packhorse")
    if found is not None and (not called.exists() or called.samefile(found)):
        return "packhorse"
    return shlex.quote(_near(called))


def _near(path: Path) -> str:
    """Relative to the current folder if it lies below it."""
    path, here = path.absolute(), Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
