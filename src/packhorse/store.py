"""The only module that imports a Redis client: connections, scripts, errors.

A `Store` hands out `Link`s. A link is one connection that many tasks share: commands are written as they come and
replies are matched in order, so concurrent callers share a pipeline, and a cancelled caller can never leave
another one with the wrong reply. Nothing is ever sent twice from here: what the caller may repeat is told by the
type of the error (`StoreUnavailable`: nothing was sent; `ReplyLost`: it may have happened).
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import hiredis
import redis.exceptions as rex
from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.backoff import NoBackoff

from packhorse.errors import ConfigError, ReplyLost, StoreRefused, StoreUnavailable, StoreUnfit
from packhorse.settings import StoreSettings, masked

try:  # redis-py 7 and later has its own retry class for asyncio
    from redis.asyncio.retry import Retry
except ImportError:  # pragma: no cover
    from redis.retry import Retry  # type: ignore[assignment]

log = logging.getLogger(__name__)

Command = tuple[Any, ...]
Reply = Any

OLDEST_SERVER = (6, 2)
SCRIPT_FLAGS_SINCE = (7, 0)


class Script:
    """A Lua script by its text; calling it gives the command for `Link.call`.

    Sent as EVALSHA, and as EVAL when the server does not have it (a restart, SCRIPT FLUSH). On servers that know
    script flags it may write while memory is full, because packhorse's scripts free what they take.
    """

    __slots__ = ("_forms", "name")

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self._forms = tuple(
            (form, hashlib.sha1(form.encode(), usedforsecurity=False).hexdigest())
            for form in (text, f"#!lua flags=allow-oom\n{text}")
        )

    def __call__(self, keys: Sequence[str | bytes], args: Sequence[str | bytes | int | float]) -> Command:
        return ("EVALSHA", self, len(keys), *keys, *args)

    def form(self, flags: bool) -> tuple[str, str]:
        """(text, sha1) for servers with or without script flags."""
        return self._forms[1 if flags else 0]


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What the server says of itself: `version` decides what it can do."""

    product: str
    version: tuple[int, int, int]
    warnings: tuple[str, ...] = ()


class Store:
    """Links to one server, all in one event loop."""

    def __init__(self, settings: StoreSettings) -> None:
        self.settings = settings
        try:
            self._pool: ConnectionPool = ConnectionPool.from_url(
                settings.url,
                protocol=3,
                retry=Retry(NoBackoff(), 0),
                retry_on_timeout=False,
                socket_timeout=None,
                socket_connect_timeout=settings.connect_timeout,
                client_name="packhorse",
                **({} if settings.url.startswith("unix:") else {"socket_keepalive": True}),
                **settings.options,
            )
            self.new_connection()
        except (ValueError, TypeError, rex.RedisError) as exc:
            raise ConfigError(f"url: {masked(settings.url)!r}: {exc}") from None
        self.server: ServerInfo | None = None
        self._links: list[Link] = []

    def link(
        self, on_push: PushHandler | None = None, on_lost: Callable[[], None] | None = None, *, awake: float = 0.0
    ) -> Link:
        """A new link; it connects at its first call and again whenever that is needed.

        `on_push` gets the keys of invalidation messages (None: all of them); `on_lost` is called when the connection
        ends. Both run inside the reader and must be quick. `awake`: after a command, the event loop looks for its
        answer for so many seconds before it sleeps; a sleep and a wake-up cost more than most answers take.
        """
        link = Link(self, on_push, on_lost, awake)
        self._links.append(link)
        return link

    def new_connection(self) -> AbstractConnection:
        connection: AbstractConnection = self._pool.make_connection()  # type: ignore[no-untyped-call]
        return connection

    @property
    def script_flags(self) -> bool:
        return self.server is not None and self.server.version >= SCRIPT_FLAGS_SINCE

    async def check(self, link: Link) -> ServerInfo:
        """Ask the server what it is, once. Errors: StoreUnfit when it is too old."""
        if self.server is None:
            (info,) = await link.call(("INFO",))
            if isinstance(info, StoreRefused):
                log.warning("INFO is refused (%s): server checks are skipped", info)
                info = b"redis_version:7.0.0"
            self.server = _server_info(info.decode("utf-8", "replace"))
        if self.server.version[:2] < OLDEST_SERVER:
            version = ".".join(map(str, self.server.version))
            raise StoreUnfit(
                f"{self.server.product} {version} at {masked(self.settings.url)} is too old: "
                "packhorse needs Redis 6.2 or newer, or Valkey"
            )
        return self.server

    async def close(self) -> None:
        """Close every link. Calls under way end with ReplyLost."""
        for link in self._links:
            await link.close()


PushHandler = Callable[[Sequence[bytes] | None], None]


class _Waiter:
    """A caller that waits for `need` replies."""

    __slots__ = ("future", "need", "replies", "since")

    def __init__(self, need: int, future: asyncio.Future[list[Reply]], since: float) -> None:
        self.need = need
        self.future = future
        self.replies: list[Reply] = []
        self.since = since


class _Wire(asyncio.Protocol):
    """The bytes of one connection: replies go to the callers in the order of their commands.

    redis-py opens the connection (addresses, TLS, login); from then on this takes its transport over. Replies so reach
    the caller two task switches earlier than through redis-py's streams (benchmark: enqueue one after the other).
    """

    def __init__(
        self, connection: AbstractConnection, timeout: float, on_push: PushHandler | None, awake: float
    ) -> None:
        self._timeout = timeout
        self._awake = awake
        self._on_push = on_push
        self._parser = hiredis.Reader(replyError=StoreRefused, notEnoughData=_MORE)
        self._waiters: deque[_Waiter] = deque()
        self._watchdog: asyncio.TimerHandle | None = None
        self._full: asyncio.Future[None] | None = None
        self._reason = "the connection was closed"
        self._loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[None] = self._loop.create_future()
        # Kept, because it closes its transport when it is collected; redis-py forgets that it is connected.
        self._writer, connection._writer, connection._reader = connection._writer, None, None
        assert self._writer is not None
        self._transport = self._writer.transport
        self._transport.set_protocol(self)

    async def send(self, packed: bytes, need: int) -> list[Reply]:
        """Write and wait for that many replies. Errors: StoreUnavailable (not written), ReplyLost."""
        while self._full is not None:
            await asyncio.shield(self._full)  # shared: a cancelled caller must not cancel the others
        if self.lost.done():
            raise StoreUnavailable(self._reason)
        now = self._loop.time()
        future: asyncio.Future[list[Reply]] = self._loop.create_future()
        self._waiters.append(_Waiter(need, future, now))
        if self._watchdog is None:
            self._watchdog = self._loop.call_later(self._timeout, self._watch)
        self._transport.write(packed)
        if self._awake and len(self._waiters) == 1:
            self._loop.call_soon(self._stay_awake, now + self._awake)
        return await future

    def _stay_awake(self, end: float) -> None:
        """Something to do at once, so that the loop only looks at its sockets and does not sleep."""
        if self._waiters and self._loop.time() < end:
            self._loop.call_soon(self._stay_awake, end)

    async def close(self, reason: str) -> None:
        self._reason = reason
        self._transport.abort()
        await self.lost

    # -- asyncio.Protocol ------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed(data)
            while (reply := self._parser.gets()) is not _MORE:
                if type(reply) is hiredis.PushNotification:
                    if self._on_push is not None and reply[0] == b"invalidate":
                        self._on_push(reply[1])
                    continue
                waiter = self._waiters[0]
                waiter.replies.append(reply)
                if len(waiter.replies) == waiter.need:
                    self._waiters.popleft()
                    if not waiter.future.done():
                        waiter.future.set_result(waiter.replies)
        except (hiredis.ProtocolError, IndexError) as exc:
            # Bytes that are no reply, or one that nobody asked for: from here on nothing could be trusted.
            self._reason = f"not a Redis reply: {exc}"
            self._transport.abort()

    def pause_writing(self) -> None:
        self._full = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._full is not None and not self._full.done():
            self._full.set_result(None)
        self._full = None

    def connection_lost(self, exc: Exception | None) -> None:
        if self._watchdog is not None:
            self._watchdog.cancel()
        self.resume_writing()
        if exc is not None:
            self._reason = str(exc) or type(exc).__name__
        waiters, self._waiters = self._waiters, deque()
        for waiter in waiters:
            if not waiter.future.done():
                waiter.future.set_exception(ReplyLost(self._reason))
        if not self.lost.done():
            self.lost.set_result(None)

    def _watch(self) -> None:
        """Ends the connection when its oldest caller has waited too long: a dead peer sends no error."""
        self._watchdog = None
        if not self._waiters:
            return
        left = self._waiters[0].since + self._timeout - self._loop.time()
        if left > 0:
            self._watchdog = self._loop.call_later(left, self._watch)
        else:
            self._reason = f"no answer within {self._timeout:g} s"
            self._transport.abort()


_MORE = object()


class Link:
    """One connection, shared by every task that holds the link.

    `call(*commands)` sends the commands in one write and gives their replies in order; an error reply is a
    `StoreRefused` value in its place, because the commands beside it have happened. Not for blocking commands.
    """

    def __init__(
        self, store: Store, on_push: PushHandler | None, on_lost: Callable[[], None] | None, awake: float
    ) -> None:
        self._store = store
        self._awake = awake
        self._on_push = on_push
        self._on_lost = on_lost
        self._wire: _Wire | None = None
        self._opening: asyncio.Lock | None = None
        self._closed = False
        #: Counts connections; a change means that the server has forgotten what belonged to the old one.
        self.generation = 0

    async def call(self, *commands: Command) -> list[Reply]:
        """Errors: StoreUnavailable (nothing sent), ReplyLost (may have happened)."""
        wire = self._wire
        if wire is None or wire.lost.done():
            wire = await self._open()
        flags = self._store.script_flags
        packed = [
            hiredis.pack_command(("EVALSHA", c[1].form(flags)[1], *c[2:]) if len(c) > 1 and type(c[1]) is Script else c)
            for c in commands
        ]
        replies = await wire.send(b"".join(packed), len(commands))
        for index, reply in enumerate(replies):
            if type(reply) is StoreRefused:
                replies[index] = await self._refused(wire, commands[index], reply)
        return replies

    async def one(self, *command: Any) -> Reply:
        """The reply to a single command; an error reply is raised."""
        (reply,) = await self.call(command)
        if isinstance(reply, StoreRefused):
            raise reply
        return reply

    async def close(self) -> None:
        self._closed = True
        wire, self._wire = self._wire, None
        if wire is not None:
            await wire.close("the link was closed")

    async def _refused(self, wire: _Wire, command: Command, refusal: StoreRefused) -> Reply:
        """A script that the server does not have is sent whole; a demoted server is left."""
        if refusal.code == "NOSCRIPT":
            text = command[1].form(self._store.script_flags)[0]
            try:
                (reply,) = await wire.send(hiredis.pack_command(("EVAL", text, *command[2:])), 1)
            except StoreUnavailable as exc:
                raise ReplyLost(str(exc)) from exc  # the commands beside it were sent
            return reply
        if refusal.code == "READONLY" and self._wire is wire:
            self._wire = None
            await wire.close("the server has become a replica")
        return refusal

    async def _open(self) -> _Wire:
        if self._opening is None:
            self._opening = asyncio.Lock()
        async with self._opening:
            if self._wire is not None and not self._wire.lost.done():
                return self._wire
            if self._closed:
                raise StoreUnavailable("the link is closed")
            connection = self._store.new_connection()
            where = masked(self._store.settings.url)
            try:
                # The login as well, not only the connection: a server that accepts may still never answer.
                async with asyncio.timeout(self._store.settings.connect_timeout):
                    await connection.connect()  # type: ignore[no-untyped-call]
            except (rex.RedisError, OSError) as exc:
                await connection.disconnect(nowait=True)
                raise StoreUnavailable(f"{where} {self._why_not(exc)}") from exc
            except BaseException:
                await connection.disconnect(nowait=True)
                raise
            wire = _Wire(connection, self._store.settings.timeout, self._on_push, self._awake)
            if self._closed:
                await wire.close("the link was closed")
                raise StoreUnavailable("the link is closed")
            wire.lost.add_done_callback(lambda _: self._wire_lost(wire))
            self.generation += 1
            self._wire = wire
            return wire

    def _why_not(self, error: Exception) -> str:
        # redis-py hands a refused login on inside another error when the connection is a unix socket.
        if isinstance(error.__cause__ or error, rex.AuthenticationError | rex.AuthorizationError):
            wants = "it wants a password" if "NOAUTH" in str(error) or "without" in str(error) else str(error)
            return f"refuses the login: {wants}; check user and password"
        return f"cannot be reached: {str(error) or f'no answer within {self._store.settings.connect_timeout:g} s'}"

    def _wire_lost(self, wire: _Wire) -> None:
        if self._wire is wire:
            self._wire = None
        if self._on_lost is not None and not self._closed:
            self._on_lost()


def raise_refused(replies: Sequence[Reply]) -> None:
    """Raise the first error among replies, if there is one."""
    for reply in replies:
        if isinstance(reply, StoreRefused):
            raise reply


def _server_info(text: str) -> ServerInfo:
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    product = "Valkey" if "valkey_version" in fields else "Redis"
    # Valkey keeps redis_version for clients that ask for it; scripts and commands follow that number.
    numbers = [int(n) for n in re.findall(r"\d+", fields.get("redis_version", "0"))[:3]]
    version = (*numbers, 0, 0, 0)[:3]
    warnings = []
    policy = fields.get("maxmemory_policy", "noeviction")
    if policy.startswith("allkeys"):
        warnings.append(f"maxmemory-policy is {policy}: the server may delete queued jobs; set it to noeviction")
    if fields.get("aof_enabled") == "0":
        warnings.append("appendonly is off: a crash of the server can lose acknowledged jobs; set appendonly yes")
    return ServerInfo(product, (version[0], version[1], version[2]), tuple(warnings))
