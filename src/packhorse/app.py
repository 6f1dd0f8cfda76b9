"""App: a wire protocol, a registry of handlers, and what is made from them: clients, admins, worker pools.

Importing a module that makes an App starts nothing and connects to nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from packhorse.admin import Admin
from packhorse.client import Client, new_id
from packhorse.clock import SYSTEM_CLOCK, Clock
from packhorse.engine.board import Board
from packhorse.engine.chain import Middleware
from packhorse.engine.pool import WorkerPool
from packhorse.errors import ArgumentsError, ConfigError
from packhorse.job import Job
from packhorse.protocols.base import NewJob, Receipt, WireProtocol
from packhorse.protocols.gocraft import Gocraft
from packhorse.registry import Backoff, Handler, Options, Registry, RetryPolicy, kind_of
from packhorse.settings import StoreSettings, WorkerSettings

P = ParamSpec("P")
R = TypeVar("R")
M = TypeVar("M", bound=Middleware)

ProtocolFactory = Callable[[StoreSettings, Clock], WireProtocol]


class App:
    """Binds handlers to a store.

    `url`: redis://, rediss:// or unix://. `namespace`: prefix of every key (gocraft: as in NewWorkerPool). `protocol`:
    makes the wire protocol; gocraft's by default. `timeout`: seconds to wait for an answer of the store.
    `store_options` go to redis-py's connections (ssl_ca_certs, username, ...). Errors: ConfigError.

    >>> app = App("redis://localhost:6379/0", namespace="shop")
    >>> @app.job(max_fails=3)
    ... async def greet(name: str) -> None:
    ...     print("hello", name)
    >>> greet.name
    'greet'
    """

    def __init__(
        self,
        url: str = "redis://localhost:6379/0",
        *,
        namespace: str = "",
        protocol: ProtocolFactory | None = None,
        timeout: float = 5.0,
        store_options: Mapping[str, Any] | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.namespace = namespace
        self.registry = Registry()
        self._make_protocol = protocol
        self._clock = clock
        self._middleware: list[Middleware] = []
        self._periodic: list[tuple[str, str]] = []
        self._client: Client | None = None
        self._protocol: WireProtocol | None = None
        self._store = StoreSettings(url, timeout=timeout, options=dict(store_options or {}))
        self._default = Gocraft(self._store, namespace, clock) if protocol is None else None

    # -- handlers --------------------------------------------------------------------------------------------

    @overload
    def job(
        self, fn: None = ..., /, *,
        name: str | None = ..., priority: int = ..., max_fails: int = ..., skip_dead: bool = ...,
        max_concurrency: int | None = ..., timeout: float | None = ..., backoff: Backoff | None = ...,
        retry: RetryPolicy | None = ..., kind: str | None = ...,
    ) -> _Decorator: ...  # fmt: skip

    @overload
    def job(self, fn: Callable[Concatenate[Job, P], R], /) -> JobFunction[P, R]: ...

    @overload
    def job(self, fn: Callable[P, R], /) -> JobFunction[P, R]: ...

    def job(
        self,
        fn: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        priority: int = 1,
        max_fails: int = 4,
        skip_dead: bool = False,
        max_concurrency: int | None = None,
        timeout: float | None = None,
        backoff: Backoff | None = None,
        retry: RetryPolicy | None = None,
        kind: str | None = None,
    ) -> Any:
        """Register a function as the handler of a job name (default: the function's name).

        `priority` 1..100000: its share of the fetches. `max_fails`: attempts (4); 1 = none after the first.
        `skip_dead`: forget a job that failed for good. `max_concurrency`: jobs of this name at once over all pools
        (0 = no limit). `timeout`: seconds an attempt may take. `backoff`: job -> seconds until the next attempt.
        `retry`: exception class -> attempts in all, 1 = none after it. `kind`: 'coroutine', 'thread' or 'process'; by
        default async functions are coroutines and others run in threads.

        A first parameter annotated `Job` gets the job itself; all others are the job's arguments. Errors: ConfigError.
        """
        options = Options(
            priority=priority, max_fails=max_fails, skip_dead=skip_dead, max_concurrency=max_concurrency,
            timeout=timeout, backoff=backoff, retry=retry,
        )  # fmt: skip
        decorator = _Decorator(self, name, options, kind)
        return decorator if fn is None else decorator(fn)

    def periodic(self, spec: str, job: JobFunction[..., Any] | str) -> None:
        """Enqueue `job` without arguments at the times of a cron spec (six fields with seconds, or five).

        Every pool that knows the App does this; each fire time is enqueued once. Errors: ConfigError.
        """
        name = job if isinstance(job, str) else job.name
        self._current().check_periodic(spec)
        self._current().check_name(name)
        if not isinstance(job, str):
            try:
                job.handler.check(b"null")
            except ArgumentsError as exc:
                raise ConfigError(f"periodic: {name!r} runs without arguments, but needs some: {exc.reason}") from None
        self._periodic.append((spec, name))

    def middleware(self, fn: M) -> M:
        """Add `async def fn(job, call_next)` around every handler; the first added is the outermost.

        It runs per attempt and calls `await call_next(job)` once. An error that it raises, or lets through, is the
        job's.
        """
        self._middleware.append(fn)
        return fn

    # -- what is made from it --------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        return self._store.url

    def use(self, url: str | None = None, *, namespace: str | None = None) -> None:
        """Take another store or namespace. Only before anything is connected. Errors: ConfigError."""
        if self._protocol is not None:
            raise ConfigError("use: this App is connected already; set the url before the first client or worker")
        if namespace is not None and self._default is None:
            raise ConfigError("use: this App makes a wire protocol of its own, which alone knows its namespace")
        store = (
            self._store if url is None else StoreSettings(url, timeout=self._store.timeout, options=self._store.options)
        )
        namespace = self.namespace if namespace is None else namespace
        if self._default is not None:
            self._default = Gocraft(store, namespace, self._clock)
        self._store, self.namespace = store, namespace

    @property
    def periodics(self) -> tuple[tuple[str, str], ...]:
        """(cron spec, job name) of every periodic job."""
        return tuple(self._periodic)

    @property
    def protocol(self) -> WireProtocol:
        """The wire protocol; from here on the store is fixed."""
        if self._protocol is None:
            self._protocol = self._current()
        return self._protocol

    @property
    def client(self) -> Client:
        """Enqueues jobs by name, and many at once."""
        if self._client is None:
            self._client = Client(self.protocol, self._clock)
        return self._client

    def admin(self) -> Admin:
        """Reads and changes the store for people, in the running event loop."""
        return Admin(self.protocol)

    def worker(
        self, settings: WorkerSettings | None = None, /, *, board: Board | None = None, first_cell: int = 0,
        **changes: Any,
    ) -> WorkerPool:  # fmt: skip
        """A pool that runs this App's jobs in the running event loop.

        `async with app.worker(concurrency=50): ...` starts and stops it inside another program. `board` and
        `first_cell` are a supervisor's.
        """
        if settings is None:
            settings = WorkerSettings(**changes)
        elif changes:
            raise ConfigError("worker: give a WorkerSettings or keywords, not both")
        return WorkerPool(
            self.protocol, self.registry, self._middleware, self._periodic, settings, self._clock, board, first_cell
        )

    def _current(self) -> WireProtocol:
        if self._protocol is not None:
            return self._protocol
        if self._default is not None:
            return self._default
        assert self._make_protocol is not None
        return self._make_protocol(self._store, self._clock)


class _Decorator:
    """`@app.job(...)` with its options bound."""

    def __init__(self, app: App, name: str | None, options: Options, kind: str | None) -> None:
        self._app, self._name, self._options, self._kind = app, name, options, kind

    @overload
    def __call__(self, fn: Callable[Concatenate[Job, P], R], /) -> JobFunction[P, R]: ...

    @overload
    def __call__(self, fn: Callable[P, R], /) -> JobFunction[P, R]: ...

    def __call__(self, fn: Callable[..., Any], /) -> Any:
        name = self._name if self._name is not None else getattr(fn, "__name__", "")
        self._app._current().check_name(name)
        handler = Handler(name, fn, kind_of(fn, self._kind), self._options)
        self._app.registry.add(handler)
        return JobFunction(self._app, handler, {})


class JobFunction(Generic[P, R]):
    """A registered handler: call it as the function it was, or enqueue it with the same, checked arguments.

    Every `enqueue...` returns a Receipt when the job is stored, and has a twin for async callers. Errors of all:
    ArgumentsError and EncodeError (nothing was sent), StoreUnavailable (not stored), EnqueueUnknown (the answer was
    lost: perhaps stored), StoreRefused.
    """

    def __init__(self, app: App, handler: Handler, options: dict[str, Any]) -> None:
        self._app = app
        self._options = options
        self.handler = handler
        self.name = handler.name
        self.fn = handler.fn
        self.__doc__ = handler.fn.__doc__
        self.__name__ = getattr(handler.fn, "__name__", handler.name)
        self.__module__ = handler.fn.__module__

    def __repr__(self) -> str:
        return f"<job {self.name!r} of {self.handler.target}>"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function here and now, with no queue in between."""
        if self.handler.wants_job:
            return self.fn(Job(self.name), *args, **kwargs)  # type: ignore[no-any-return]
        return self.fn(*args, **kwargs)  # type: ignore[no-any-return]

    def options(
        self,
        *,
        delay: float | None = None,
        at: float | None = None,
        unique: bool = False,
        key: Mapping[str, object] | None = None,
        id: str | None = None,
        expires_in: float | None = None,
    ) -> JobFunction[P, R]:
        """The same job with other ways of enqueueing, as in `Client.prepare`."""
        given = {
            "delay": delay, "at": at, "unique": unique, "key": key, "id": id, "expires_in": expires_in,
        }  # fmt: skip
        chosen = {name: value for name, value in given.items() if value is not None and value is not False}
        return JobFunction(self._app, self.handler, self._options | chosen)

    def prepare(self, *args: P.args, **kwargs: P.kwargs) -> NewJob:
        """The job for `client.enqueue_many`; nothing is sent."""
        handler = self.handler
        named = handler.arguments(args, kwargs)
        raw = self._app.protocol.encode_args(handler.name, named or None)
        handler.check(raw)
        if not self._options:
            return NewJob(handler.name, new_id(), raw)
        return self._app.client.build(handler.name, raw, **self._options)

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Receipt:
        """Run it as soon as a worker is free."""
        return self._app.client.send(self.prepare(*args, **kwargs))

    async def enqueue_async(self, *args: P.args, **kwargs: P.kwargs) -> Receipt:
        return await self._app.client.send_async(self.prepare(*args, **kwargs))

    def enqueue_in(self, delay: float, /, *args: P.args, **kwargs: P.kwargs) -> Receipt:
        """Run it after `delay` seconds."""
        return self.options(delay=delay).enqueue(*args, **kwargs)

    async def enqueue_in_async(self, delay: float, /, *args: P.args, **kwargs: P.kwargs) -> Receipt:
        return await self.options(delay=delay).enqueue_async(*args, **kwargs)

    def enqueue_at(self, at: float, /, *args: P.args, **kwargs: P.kwargs) -> Receipt:
        """Run it at epoch second `at`."""
        return self.options(at=at).enqueue(*args, **kwargs)

    async def enqueue_at_async(self, at: float, /, *args: P.args, **kwargs: P.kwargs) -> Receipt:
        return await self.options(at=at).enqueue_async(*args, **kwargs)

    def enqueue_unique(self, *args: P.args, **kwargs: P.kwargs) -> Receipt:
        """Unless an equal one waits already: then `receipt.duplicate` is True and nothing was added."""
        return self.options(unique=True).enqueue(*args, **kwargs)

    async def enqueue_unique_async(self, *args: P.args, **kwargs: P.kwargs) -> Receipt:
        return await self.options(unique=True).enqueue_async(*args, **kwargs)

    def enqueue_unique_by_key(self, key: Mapping[str, object], /, *args: P.args, **kwargs: P.kwargs) -> Receipt:
        """Unless one with this key waits: then that one will run with these arguments instead."""
        return self.options(key=key).enqueue(*args, **kwargs)

    async def enqueue_unique_by_key_async(
        self, key: Mapping[str, object], /, *args: P.args, **kwargs: P.kwargs
    ) -> Receipt:
        return await self.options(key=key).enqueue_async(*args, **kwargs)
