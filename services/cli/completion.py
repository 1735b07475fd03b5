"""`trainshed completion`: the script that lets a shell complete verbs, options, runs and nodes.

Owns which shells there are; the scripts are click's.
"""

from __future__ import annotations

import click

from services.cli.verb import verb

_HOW = {
    "bash": 'eval "$(trainshed completion bash)"    # in ~/.bashrc',
    "zsh": 'eval "$(trainshed completion zsh)"    # in ~/.zshrc, after compinit',
    "fish": "trainshed completion fish > ~/.config/fish/completions/trainshed.fish",
}
VARIABLE = "_TRAINSHED_COMPLETE"


@verb(*_HOW.values())
@click.argument("shell", type=click.Choice(list(_HOW)))
def completion(shell: str) -> None:
    """Print the script that completes `trainshed` in your shell: verbs, options, runs and nodes."""
    from click.shell_completion import get_completion_class

    from services.cli.main import cli

    kind = get_completion_class(shell)
    assert kind is not None  # click knows all three
    made = kind(cli, {}, "trainshed", VARIABLE)
    # Not source(): that starts a bash to learn its version.
    click.echo(made.source_template % made.source_vars())
