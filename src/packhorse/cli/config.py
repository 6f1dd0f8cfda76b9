"""The settings file: `packhorse.toml`, or `[tool.packhorse]` in `pyproject.toml`, in the current folder.

A flag wins over the environment, the environment over the file, the file over the App's own values. A key
that is not known, or has the wrong type, is an error that says where.
"""

from __future__ import annotations

import logging
import os
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from packhorse.cli.faults import Fault, nearest
from packhorse.cli.options import Given

log = logging.getLogger(__name__)

LARGEST_FILE = 1 << 20
TOP: Mapping[str, tuple[type, ...]] = {
    "app": (str, list),
    "url": (str,),
    "namespace": (str,),
    "worker": (dict,),
}
WORKER: Mapping[str, tuple[type, ...]] = {
    "concurrency": (int,),
    "processes": (int,),
    "stop_timeout": (int, float, str),
    "max_jobs": (int,),
    "max_memory": (int,),
    "log_level": (str,),
    "log_format": (str,),
}
_NAMES = {str: "text", int: "a whole number", float: "a number", list: "a list of texts", dict: "a table"}


@dataclass(frozen=True, slots=True)
class Settings:
    """What the file says; empty when there is none. `path` is for messages."""

    path: str = ""
    top: Mapping[str, Any] = field(default_factory=dict)
    worker: Mapping[str, Any] = field(default_factory=dict)


def settings(given: Given) -> Settings:
    """The settings file that --config, PACKHORSE_CONFIG or the current folder names. Errors: Fault."""
    named = given.config if given.config is not None else os.environ.get("PACKHORSE_CONFIG")
    if named:
        path = Path(named)
        return _from_table(path, _pyproject(_parsed(path)) if path.name == "pyproject.toml" else _parsed(path))
    own = Path("packhorse.toml")
    if own.exists():
        return _from_table(own, _parsed(own))
    project = Path("pyproject.toml")
    # A project file without a word about packhorse is nobody's business here, broken or not.
    if project.is_file() and b"tool.packhorse" in _read(project):
        return _from_table(project, _pyproject(_parsed(project)))
    return Settings()


def resolve(given: Given, key: str, file: Settings) -> tuple[str | None, str]:
    """(value, where it comes from) of `app`, `url` or `namespace`; (None, "") when nobody says."""
    flag: str | None = getattr(given, key)
    if flag is not None:
        return flag, f"--{key}"
    variable = f"PACKHORSE_{key.upper()}"
    if os.environ.get(variable):
        return os.environ[variable], variable
    if key in file.top:
        return file.top[key], file.path
    return None, ""


def _pyproject(table: Mapping[str, Any]) -> Any:
    return table.get("tool", {}).get("packhorse", {})


def _parsed(path: Path) -> Mapping[str, Any]:
    text = ""
    try:
        text = _read(path).decode("utf-8-sig")
        return tomllib.loads(text)
    except UnicodeDecodeError as exc:
        raise Fault(f"{path}: byte {exc.start} is not UTF-8") from None
    except tomllib.TOMLDecodeError as exc:
        last = text.rstrip("\n").split("\n")
        end = f"at line {len(last)}, column {len(last[-1]) + 1}"
        raise Fault(f"{path}: {exc}".replace("at end of document", end)) from None
    except RecursionError:
        raise Fault(f"{path}: nested too deeply") from None


def _read(path: Path) -> bytes:
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            raise Fault(f"{path}: the settings file is no file")
        if about.st_size > LARGEST_FILE:
            raise Fault(f"{path}: {about.st_size} bytes are too many for a settings file")
        if about.st_mode & stat.S_IWOTH:
            log.warning("%s may be written by everybody on this machine: chmod o-w it", path)
        return path.read_bytes()
    except OSError as exc:
        raise Fault(f"{path}: the settings file cannot be read: {exc.strerror}") from None


def _from_table(path: Path, table: Any) -> Settings:
    top = _checked(str(path), "", table, TOP)
    worker = _checked(str(path), "worker.", top.pop("worker", {}), WORKER)
    apps = top.get("app")
    if isinstance(apps, list) and not all(isinstance(app, str) for app in apps):
        raise Fault(f"{path}: app must be a text such as 'my_app:app', or a list of them")
    return Settings(str(path), top, worker)


def _checked(path: str, prefix: str, table: Any, known: Mapping[str, tuple[type, ...]]) -> dict[str, Any]:
    if not isinstance(table, dict):
        raise Fault(f"{path}: {prefix.rstrip('.') or 'tool.packhorse'} must be a table")
    found: dict[str, Any] = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in known:
            raise Fault(f"{path}: unknown key {prefix + key!r}", _suggestion(name, prefix, known))
        if isinstance(value, bool) or not isinstance(value, known[name]):
            kinds = " or ".join(_NAMES[kind] for kind in known[name])
            raise Fault(f"{path}: {prefix}{key} must be {kinds}, not {value!r}")
        found[name] = value
    return found


def _suggestion(name: str, prefix: str, known: Mapping[str, tuple[type, ...]]) -> str:
    if not prefix and name in WORKER:
        return f"it belongs under [worker]: {name}"
    return nearest(name, known, prefix + "{}") or f"known keys: {', '.join(prefix + key for key in known)}"
