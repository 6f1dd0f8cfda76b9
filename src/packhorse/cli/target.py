"""Finds the App that a command works on: `module:app` as elsewhere, or one made from URL and namespace.

The current folder comes first on the path. Every mistake is told with its real reason, before it connects.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import packhorse
from packhorse.app import App
from packhorse.cli.config import Settings, resolve, settings
from packhorse.cli.faults import Fault, nearest
from packhorse.cli.options import Given
from packhorse.cli.output import note
from packhorse.errors import ConfigError
from packhorse.settings import masked

DEFAULT_ATTRIBUTE = "app"
PACKAGE = Path(packhorse.__file__).parent


def open_app(given: Given) -> App:
    """The App of an admin command: as --app, PACKHORSE_APP or the file names it, else a bare one."""
    file = settings(given)
    target, _ = resolve(given, "app", file)
    if not target:
        return _bare_app(given, file)
    if isinstance(target, list):
        if len(target) != 1:
            raise Fault(f"{file.path} names {len(target)} Apps; choose one with --app")
        target = target[0]
    return _with_overrides(load_app(target), given, file)


def names_app(given: Given) -> bool:
    """True if a module:app is named anywhere, so that its handlers are known."""
    target, _ = resolve(given, "app", settings(given))
    return bool(target)


def open_apps(targets: Sequence[str], given: Given) -> list[App]:
    """The Apps of a worker: as named on the line, else by --app, PACKHORSE_APP or the settings file."""
    file = settings(given)
    if not targets:
        named, _ = resolve(given, "app", file)
        targets = [named] if isinstance(named, str) and named else named or ()
    if not targets:
        raise Fault("which App? none was named", "packhorse worker my_app:app, where my_app.py has `app = App(...)`")
    apps = [load_app(target) for target in dict.fromkeys(targets)]
    for app, target in zip(apps, dict.fromkeys(targets), strict=True):
        if not len(app.registry):
            raise Fault(f"{target} has no jobs", "decorate a function with @app.job() in a module that it imports")
    return [_with_overrides(app, given, file) for app in {id(app): app for app in apps}.values()]


def own_url(given: Given) -> str | None:
    """The URL that was named by a flag, the environment or the file; for commands that can do without."""
    url, source = resolve(given, "url", settings(given))
    _warn_of_argv(url, source)
    return url


def load_app(target: str) -> App:
    """Import `module:attribute` (attribute: `app`). Errors: Fault with the real reason."""
    module_name, colon, path = target.partition(":")
    _check_form(target, module_name)
    module = _import(module_name)
    found: Any = module
    path = path if colon and path else DEFAULT_ATTRIBUTE
    for part in path.split("."):
        if not hasattr(found, part):
            raise _no_attribute(module, found, part)
        found = getattr(found, part)
    if not isinstance(found, App):
        raise _no_app(f"{module_name}:{path}", module, found)
    return found


def _check_form(target: str, module_name: str) -> None:
    if not module_name:
        raise Fault(f"{target!r} names no module; the form is module:app")
    if module_name.endswith(".py") or "/" in module_name or os.sep in module_name:
        dotted = module_name.removesuffix(".py").strip("./").replace("/", ".")
        raise Fault(f"{target!r} is a file; the form is module:app", f"{dotted}:{target.partition(':')[2] or 'app'}")
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise Fault(f"{module_name!r} cannot be the name of a module; the form is module:app")


def _import(name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        # What a module prints while it is imported must not get into our answer.
        with contextlib.redirect_stdout(sys.stderr):
            return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name is not None and (name == exc.name or name.startswith(f"{exc.name}.")):
            raise Fault(f"there is no module {exc.name!r} in {here} or on the path", _neighbours(exc.name)) from None
        raise _import_failed(name, exc) from exc
    except (Exception, SystemExit) as exc:
        raise _import_failed(name, exc) from exc


def _import_failed(name: str, exc: BaseException) -> Fault:
    reason = str(exc) if isinstance(exc, ConfigError) else f"{type(exc).__name__}: {exc}".rstrip(": ")
    where = "" if isinstance(exc, SyntaxError) else _where(exc)
    return Fault(f"importing {name!r} failed: {reason}{where}", "the same command with -v shows the whole traceback")


def _where(exc: BaseException) -> str:
    """The innermost line of the user's own code that an error came through."""
    frames = [frame for frame in traceback.extract_tb(exc.__traceback__) if not frame.filename.startswith("<")]
    here = Path.cwd()
    own = [
        frame
        for frame in frames
        if Path(frame.filename).is_relative_to(here)
        and not Path(frame.filename).is_relative_to(PACKAGE)
        and "site-packages" not in frame.filename
    ]
    frame = (own or frames)[-1]
    return f" ({Path(frame.filename).name}, line {frame.lineno})"


def _no_attribute(module: ModuleType, holder: Any, part: str) -> Fault:
    name = module.__name__
    if holder is not module:
        return Fault(f"{name}: {type(holder).__name__} has no attribute {part!r}")
    apps = [key for key, value in vars(module).items() if isinstance(value, App)]
    hint = f"it has {' and '.join(f'{name}:{app}' for app in apps)}" if apps else ""
    public = [key for key in vars(module) if not key.startswith("_")]
    return Fault(f"module {name!r} has no attribute {part!r}", hint or nearest(part, public, name + ":{}"))


def _no_app(target: str, module: ModuleType, found: object) -> Fault:
    apps = [key for key, value in vars(module).items() if isinstance(value, App)]
    if apps:
        hint = f"{module.__name__}:{apps[0]} is one"
    elif callable(found):
        hint = "it must be an App already, such as `app = create_app()` in the module"
    else:
        hint = "an App is made with `app = App('redis://...', namespace='...')`"
    return Fault(f"{target} is no packhorse App but {_a(type(found).__name__)}", hint)


def _a(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def _neighbours(name: str) -> str:
    here = Path.cwd()
    modules = {path.stem for path in here.glob("*.py")} | {path.parent.name for path in here.glob("*/__init__.py")}
    return nearest(name, modules) or "start it in the folder of the module, or install the package"


def _bare_app(given: Given, file: Settings) -> App:
    url, source = resolve(given, "url", file)
    namespace, where = resolve(given, "namespace", file)
    _warn_of_argv(url, source)
    app = App()
    with _blaming(source or where):
        app.use(url, namespace=namespace)
    return app


def _with_overrides(app: App, given: Given, file: Settings) -> App:
    url, source = resolve(given, "url", file)
    namespace, where = resolve(given, "namespace", file)
    _warn_of_argv(url, source)
    if url is not None:
        with _blaming(source):
            app.use(url)
    if namespace is not None and namespace != app.namespace:
        with _blaming(where):
            app.use(namespace=namespace)
    return app


@contextlib.contextmanager
def _blaming(source: str) -> Iterator[None]:
    """A ConfigError says which flag, variable or file its value came from."""
    try:
        yield
    except ConfigError as exc:
        raise Fault(f"{exc} (from {source})" if source else str(exc)) from None


def _warn_of_argv(url: str | None, source: str) -> None:
    if url is not None and source == "--url" and masked(url) != url:
        note("warning: a password on the command line is seen by everybody on this machine; use PACKHORSE_URL")
