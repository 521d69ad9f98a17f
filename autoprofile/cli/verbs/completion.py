"""`autoprofile completion`: the script that teaches a shell to complete autoprofile's words."""

from __future__ import annotations

import click

from autoprofile.cli.options import output_of, verb

__all__ = ["command"]

_WHERE = {
    "bash": "~/.local/share/bash-completion/completions/autoprofile",
    "fish": "~/.config/fish/completions/autoprofile.fish",
    "zsh": "a directory of $fpath, as _autoprofile",
}


@verb("completion", "This machine", 20)
@click.argument("shell", type=click.Choice(sorted(_WHERE)))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    \b
    bash: autoprofile completion bash > ~/.local/share/bash-completion/completions/autoprofile
    fish: autoprofile completion fish > ~/.config/fish/completions/autoprofile.fish
    zsh:  autoprofile completion zsh > "${fpath[1]}/_autoprofile"
    """  # noqa: D301 - \b is click's own mark
    from click.shell_completion import get_completion_class

    from autoprofile.cli.app import COMPLETION_VARIABLE, PROGRAM, app

    script = get_completion_class(shell)
    if script is None:  # pragma: no cover - click ships all three
        raise click.UsageError(f"click knows no completion for {shell}")
    output = output_of(ctx)
    output.data(script(app, {}, PROGRAM, COMPLETION_VARIABLE).source() + "\n")
    output.detail(f"put it in {_WHERE[shell]}")
