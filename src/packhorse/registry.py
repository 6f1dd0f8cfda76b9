"""Registry: which handler runs which job name, and how its arguments are read.

A handler's signature becomes a msgspec decoder, so that payload bytes turn into checked, converted call arguments
in one step. Made at import time of the user's module, frozen when a pool starts.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import itertools
import typing
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from enum import Enum
from typing import Any

import msgspec

from packhorse.errors import ArgumentsError, ConfigError
from packhorse.job import Job

MAX_PRIORITY = 100_000

Backoff = Callable[[Job], float]
RetryPolicy = Mapping[type[BaseException], "int | None"]


class Kind(Enum):
    """Where a handler runs."""

    COROUTINE = "coroutine"
    THREAD = "thread"
    PROCESS = "process"


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How jobs of one name are run. See `App.job` for what each means."""

    priority: int = 1
    max_fails: int = 4
    skip_dead: bool = False
    max_concurrency: int | None = None
    timeout: float | None = None
    backoff: Backoff | None = None
    retry: RetryPolicy | None = None

    def __post_init__(self) -> None:
        _require(1 <= self.priority <= MAX_PRIORITY, "priority", self.priority, f"1 to {MAX_PRIORITY}")
        _require(self.max_fails >= 1, "max_fails", self.max_fails, "1 or more (1 = no second attempt)")
        limit = self.max_concurrency
        _require(limit is None or limit >= 0, "max_concurrency", limit, "0 (no limit) or more")
        _require(self.timeout is None or self.timeout > 0, "timeout", self.timeout, "more than 0 seconds")
        for error, attempts in (self.retry or {}).items():
            known = isinstance(error, type) and issubclass(error, BaseException)
            _require(known, "retry", error, "exception classes as keys")
            _require(attempts is None or attempts >= 1, "retry", attempts, "1 or more attempts, or None")

    def attempts(self, error: BaseException | None) -> int:
        """How many attempts a job has when this error ended the latest one (the nearest class decides)."""
        for base in type(error).__mro__:
            if self.retry is not None and base in self.retry:
                limit = self.retry[base]
                return self.max_fails if limit is None else limit
        return self.max_fails


class Handler:
    """A function that runs jobs of one name, with its options."""

    __slots__ = (
        "_all_names", "_bind_args", "_forgiving", "_rest_name", "_signature", "fn", "kind", "name", "options", "target",
        "timeout", "wants_job",
    )  # fmt: skip

    def __init__(self, name: str, fn: Callable[..., Any], kind: Kind, options: Options) -> None:
        self.name = name
        self.fn = fn
        self.kind = kind
        self.options = options
        self.timeout = options.timeout
        self.target = f"{fn.__module__}:{fn.__qualname__}"
        self.wants_job, self._signature, self._bind_args, self._forgiving = _reader(name, fn)
        parameters = self._signature.parameters.values()
        self._rest_name = [p.name for p in parameters if p.kind is p.VAR_KEYWORD]
        self._all_names = frozenset() if self._rest_name else frozenset(p.name for p in parameters)
        if kind is Kind.PROCESS and "<locals>" in fn.__qualname__:
            raise ConfigError(
                f"job {name!r}: a process handler must be a module-level function, so that the process can "
                f"import it; {fn.__qualname__} is not"
            )

    def bind(self, job: Job) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Call arguments for this job. Errors: ArgumentsError."""
        args, kwargs = self.bind_raw(job.raw_args)
        return ((job, *args), kwargs) if self.wants_job else (args, kwargs)

    def bind_raw(self, raw: bytes | msgspec.Raw) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Call arguments without the job itself."""
        try:
            return self._bind_args(raw)
        except msgspec.MsgspecError as exc:
            try:
                return self._forgiving(raw)
            except msgspec.MsgspecError:
                raise ArgumentsError(self.name, str(exc)) from None

    def arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """A producer's call as named arguments. Errors: ArgumentsError, before anything is written."""
        if not args and kwargs.keys() == self._all_names:
            return kwargs  # the usual call, at a tenth of the cost of binding (benchmark: enqueue)
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError as exc:
            raise ArgumentsError(self.name, str(exc)) from None
        # What `**rest` took travels beside the others.
        rest = {name: bound.arguments.pop(name) for name in self._rest_name if name in bound.arguments}
        named: dict[str, Any] = dict(bound.arguments)
        for extra in rest.values():
            named |= extra
        return named

    def check(self, raw: bytes) -> None:
        """Errors: ArgumentsError when a worker could not read these encoded arguments."""
        self.bind_raw(raw)


class Registry:
    """Handlers by job name. Registering a name twice is an error, as two functions would fight for its jobs."""

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}
        self.get = self._handlers.get

    def add(self, handler: Handler) -> None:
        other = self._handlers.get(handler.name)
        if other is not None:
            raise ConfigError(
                f"job {handler.name!r} is registered twice: {other.target} and {handler.target}; "
                "give one of them another name="
            )
        self._handlers[handler.name] = handler

    def __iter__(self) -> typing.Iterator[Handler]:
        return iter(self._handlers.values())

    def __len__(self) -> int:
        return len(self._handlers)

    def __contains__(self, name: object) -> bool:
        return name in self._handlers


def kind_of(fn: Callable[..., Any], asked: str | None) -> Kind:
    """The kind of a handler: async functions are coroutines, others run in threads unless told otherwise."""
    if not callable(fn) or inspect.isclass(fn) or not hasattr(fn, "__qualname__"):
        raise ConfigError(f"a handler must be a function, not {fn!r}; call it from one")
    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        raise ConfigError(f"{fn.__qualname__} is a generator: calling it would run nothing; remove its yield")
    is_async = inspect.iscoroutinefunction(fn)
    if asked is None:
        return Kind.COROUTINE if is_async else Kind.THREAD
    try:
        kind = Kind(asked)
    except ValueError:
        allowed = ", ".join(repr(k.value) for k in Kind)
        raise ConfigError(f"kind: {asked!r} is not one of {allowed}") from None
    if is_async != (kind is Kind.COROUTINE):
        needs = "an async function" if kind is Kind.COROUTINE else "a plain function, not an async one"
        raise ConfigError(f"kind: {asked!r} needs {needs}: {fn.__qualname__}")
    return kind


def _require(good: bool, option: str, value: object, allowed: str) -> None:
    if not good:
        raise ConfigError(f"{option}: must be {allowed}, not {value!r}")


_Call = tuple[tuple[Any, ...], dict[str, Any]]
_Reader = Callable[["bytes | msgspec.Raw"], _Call]


def _reader(name: str, fn: Callable[..., Any]) -> tuple[bool, inspect.Signature, _Reader, _Reader]:
    """(takes the Job first, signature without it, strict reader, forgiving reader) of a handler's arguments."""
    signature = inspect.signature(fn)
    try:
        hints = typing.get_type_hints(fn, include_extras=True)
    except NameError as exc:
        raise ConfigError(
            f"job {name!r}: an annotation of {fn.__qualname__} cannot be read ({exc}); import the name at run "
            "time, not only for type checking"
        ) from None
    parameters = list(signature.parameters.values())
    wants_job = bool(parameters) and hints.get(parameters[0].name) is Job
    if wants_job:
        parameters = parameters[1:]
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.POSITIONAL_ONLY):
            raise ConfigError(
                f"job {name!r}: arguments travel by name, so {fn.__qualname__} cannot have the "
                f"parameter {str(parameter)!r}"
            )
    signature = signature.replace(parameters=parameters)
    if not parameters:
        return wants_job, signature, _no_arguments, _no_arguments
    if parameters[-1].kind is inspect.Parameter.VAR_KEYWORD:
        return wants_job, signature, *_open_reader(name, parameters, hints)
    return wants_job, signature, *_struct_reader(name, parameters, hints)


_no_fields = msgspec.json.Decoder(msgspec.defstruct("NoArguments", [], forbid_unknown_fields=True) | None).decode


def _no_arguments(raw: bytes | msgspec.Raw) -> _Call:
    _no_fields(raw)
    return (), {}


def _struct_of(name: str, parameters: list[inspect.Parameter], hints: dict[str, Any], closed: bool) -> Any:
    """A msgspec type with one field per parameter. Field names are safe ones: a parameter may be called anything."""
    fields: list[Any] = []
    rename: dict[str, str] = {}
    for index, parameter in enumerate(parameters):
        field = f"f{index}"
        rename[field] = parameter.name
        hint = hints.get(parameter.name, Any)
        if parameter.default is inspect.Parameter.empty:
            fields.append((field, hint))
        else:
            default = parameter.default
            fields.append((field, hint, msgspec.field(default_factory=functools.partial(_same, default))))
    try:
        struct = msgspec.defstruct("Arguments", fields, rename=rename, forbid_unknown_fields=closed, kw_only=True)
        msgspec.json.Decoder(struct)
    except TypeError as exc:
        raise ConfigError(f"job {name!r}: a parameter's annotation cannot travel as JSON: {exc}") from None
    return struct


def _same(value: Any) -> Any:
    return value


def _struct_reader(name: str, parameters: list[inspect.Parameter], hints: dict[str, Any]) -> tuple[_Reader, _Reader]:
    struct = _struct_of(name, parameters, hints, closed=True)
    decode = msgspec.json.Decoder(struct | None).decode
    no_arguments = msgspec.json.Decoder(struct).decode
    astuple = msgspec.structs.astuple
    keyword_only = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    positional = len(parameters) - len(keyword_only)

    def split(value: Any) -> _Call:
        values = astuple(value)
        if not keyword_only:
            return values, {}
        return values[:positional], dict(zip(keyword_only, values[positional:], strict=True))

    def strict(raw: bytes | msgspec.Raw) -> _Call:
        value = decode(raw)
        return split(no_arguments(b"{}") if value is None else value)

    def forgiving(raw: bytes | msgspec.Raw) -> _Call:
        plain = _mended(msgspec.json.decode(raw) or {}, {p.name: hints.get(p.name, Any) for p in parameters})
        return split(msgspec.convert(plain, struct, str_keys=True))

    return strict, forgiving


def _open_reader(name: str, parameters: list[inspect.Parameter], hints: dict[str, Any]) -> tuple[_Reader, _Reader]:
    """For handlers with `**rest`: checked parameters, and everything else as it came."""
    named = parameters[:-1]
    struct = _struct_of(name, named, hints, closed=False)
    names = [p.name for p in named]

    def read(raw: bytes | msgspec.Raw, mend: bool) -> _Call:
        plain = msgspec.json.decode(raw, type=dict[str, Any] | None) or {}
        if mend:
            plain = _mended(plain, {p.name: hints.get(p.name, Any) for p in named})
        values = msgspec.structs.astuple(msgspec.convert(plain, struct, str_keys=True))
        return (), {**plain, **dict(zip(names, values, strict=True))}

    return functools.partial(read, mend=False), functools.partial(read, mend=True)


def _mended(plain: Any, hints: Mapping[str, Any]) -> Any:
    """Undo what Go's movers do to values: `{}` for an empty list, `1e+14` for an integer (gocraft quirks 2)."""
    if not isinstance(plain, dict):
        return plain
    return {key: _mend(value, hints.get(key, Any)) for key, value in plain.items()}


def _mend(value: Any, hint: Any) -> Any:
    options = typing.get_args(hint) if _bare(hint) is typing.Union or isinstance(hint, _UNION) else (hint,)
    origins = {_bare(option) for option in options}
    if value == {} and isinstance(value, dict) and not origins & {dict, Any}:
        return [] if origins & _LISTS else value
    if isinstance(value, float) and value.is_integer() and int in origins and float not in origins:
        return int(value)
    if not isinstance(value, list | dict):
        return value
    for option in options:
        origin, inner = _bare(option), typing.get_args(option)
        if isinstance(value, list) and origin in _LISTS and inner:
            one_each = origin is tuple and inner[-1] is not ...
            hints = inner if one_each else itertools.repeat(inner[0], len(value))
            return [_mend(item, each) for item, each in itertools.zip_longest(value, hints)][: len(value)]
        if isinstance(value, dict) and origin is dict and len(inner) == 2:
            return {key: _mend(item, inner[1]) for key, item in value.items()}
        if isinstance(value, dict) and (fields := _fields(origin)):
            return _mended(value, fields)
    return value


def _bare(hint: Any) -> Any:
    """`list` for `list[int]`, `int` for `Annotated[int, ...]`."""
    origin = typing.get_origin(hint)
    return _bare(hint.__origin__) if origin is typing.Annotated else origin or hint


def _fields(kind: Any) -> Mapping[str, Any]:
    """Name on the wire -> annotation, for classes that become JSON objects."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
    if dataclasses.is_dataclass(kind) or typing.is_typeddict(kind):
        return typing.get_type_hints(kind)
    return {}


_UNION = type(int | str)
_LISTS = {list, tuple, set, frozenset, Sequence, Collection, Set}
