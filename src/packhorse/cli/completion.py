"""`packhorse completion`: click's own completion script for a shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from packhorse.cli.output import write

HELP = """Print the script that makes Tab complete commands and options.

\b
  packhorse completion bash > ~/.local/share/bash-completion/completions/packhorse
  packhorse completion zsh > ~/.zfunc/_packhorse
  packhorse completion fish > ~/.config/fish/completions/packhorse.fish
"""

INSTALL = {
    "bash": 'eval "$(packhorse completion bash)"   in ~/.bashrc',
    "zsh": 'eval "$(packhorse completion zsh)"   in ~/.zshrc, behind compinit',
    "fish": "packhorse completion fish > ~/.config/fish/completions/packhorse.fish",
}


@click.command("completion", help=HELP)
@click.argument("shell", type=click.Choice(sorted(INSTALL)))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    maker = get_completion_class(shell)
    assert maker is not None
    script = maker(ctx.find_root().command, {}, "packhorse", "_PACKHORSE_COMPLETE").source()
    # At the end: zsh wants its own first line, and on a terminal the end is what people see.
    write(f"{script}\n# To install: {INSTALL[shell]}")
