"""`module:app`: what can be wrong with a user's own module, told with the real reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from conftest import Invoke

HEAD = "from packhorse import App\napp = App(namespace='x')\n"

# (source of bad.py, what must be said)
MODULES = [
    ("import nonexistent_thing\n", ("importing 'bad' failed", "nonexistent_thing", "bad.py, line 1")),
    ("def f(:\n", ("importing 'bad' failed", "SyntaxError", "bad.py, line 1")),
    ("\n\n1 / 0\n", ("importing 'bad' failed", "ZeroDivisionError", "bad.py, line 3")),
    ("raise SystemExit(3)\n", ("importing 'bad' failed", "SystemExit: 3")),
    ("raise ValueError('\\x1b[31mred')\n", ("ValueError: \\x1b[31mred",)),
    ("from bad import later\nlater = 1\n", ("partially initialized", "bad.py, line 1")),
    ("from packhorse import App\napp = App('http://x')\n", ("redis://", "bad.py, line 2")),
    ("from packhorse import App\napp = App(namespace='a\\nb')\n", ("namespace:", "bad.py, line 2")),
    (HEAD + "@app.job\ndef a() -> None: ...\napp.job(name='a')(print)\n", ("bad.py, line 5",)),
    (HEAD + "@app.job(name='x')\ndef a() -> None: ...\n@app.job(name='x')\ndef b() -> None: ...\n",
     ("'x' is registered twice", "bad:a", "bad:b")),
    (HEAD + "@app.job\nclass A: ...\n", ("must be a function", "bad.py, line 3")),
    (HEAD + "@app.job\ndef a(*args: int) -> None: ...\n", ("*args",)),
    (HEAD + "@app.job(kind='process')\nasync def a() -> None: ...\n", ("kind: 'process'",)),
    (HEAD + "@app.job(max_fails=0)\nasync def a() -> None: ...\n", ("max_fails",)),
    (HEAD + "app.periodic('61 * * * * *', 'a')\n", ("61",)),
    (HEAD + "app.periodic('0 0 0 31 2 *', 'a')\n", ("never fires",)),
    ("app = None\n", ("bad:app is no packhorse App but a NoneType", "App(")),
    ("def app() -> None: ...\n", ("but a function", "create_app()")),
    ("import packhorse\nworkers = packhorse.App(namespace='x')\n", ("no attribute 'app'", "bad:workers")),
    ("", ("no attribute 'app'",)),
    (HEAD, ("bad has no jobs", "@app.job()")),
    (HEAD + "@app.job\ndef a() -> None: ...\napp.client\n", ("connected already", "--url")),
]  # fmt: skip


@pytest.mark.parametrize(("source", "said"), MODULES, ids=[row[1][0] for row in MODULES])
def test_a_broken_module_is_told_with_its_reason(
    invoke: Invoke, folder: Path, source: str, said: tuple[str, ...]
) -> None:
    (folder / "bad.py").write_text(source)
    result = invoke("worker", "bad", "--url", "redis://localhost:1/0")
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.stderr
    assert "\x1b" not in result.stderr
    for text in said:
        assert text in result.stderr


def test_verbose_shows_the_whole_traceback(invoke: Invoke, folder: Path) -> None:
    (folder / "bad.py").write_text("def fall() -> None:\n    1 / 0\nfall()\n")
    quiet = invoke("worker", "bad:app")
    assert "-v" in quiet.stderr
    loud = invoke("worker", "bad:app", "-v")
    assert loud.exit_code == 2
    assert "ZeroDivisionError" in loud.stderr
    assert "line 3" in loud.stderr


def test_an_app_may_lie_deep_in_a_package(invoke: Invoke, folder: Path) -> None:
    (folder / "shop").mkdir()
    (folder / "shop" / "__init__.py").write_text("")
    (folder / "shop" / "jobs.py").write_text(
        "from my_app import app\nclass Holder:\n    inner = app\nholder = Holder()\n"
    )
    for target in ("shop.jobs", "shop.jobs:app", "shop.jobs:holder.inner"):
        result = invoke("cron", "--app", target, "--json")
        assert result.exit_code == 0, result.output
    assert invoke("cron", "--app", "shop.job:app").exit_code == 2
    assert "no module 'shop.job'" in invoke("cron", "--app", "shop.job:app").stderr


def test_what_a_module_prints_while_it_is_imported_stays_out_of_the_answer(invoke: Invoke, folder: Path) -> None:
    (folder / "loud.py").write_text("print('importing')\nfrom my_app import app\n")
    result = invoke("cron", "--app", "loud", "--json")
    assert "importing" not in result.stdout
    assert "importing" in result.stderr
