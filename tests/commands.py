"""`clicksim` called as from a shell, in this process; and command lines that are only read."""

import signal

import click
from click.testing import CliRunner, Result

from clicksim.cli import main


def run(*args: object) -> Result:
    """How a command ended; a traceback is one of the test."""
    return CliRunner().invoke(main, [str(arg) for arg in args], catch_exceptions=False)


def done(*args: object) -> str:
    """The stdout of a command that ends well."""
    result = run(*args)
    assert result.exit_code == 0, result.output
    return result.stdout


def parse(words: list[str]) -> None:
    """Read a command line as click does; no file has to be there. What it would refuse fails the test."""
    from clickseg.cli import main as clickseg_main

    command: click.Command = {"clicksim": main, "clickseg": clickseg_main}[words[0]]
    context, rest = click.Context(command, info_name=words[0], **command.context_settings), words[1:]
    while isinstance(command, click.Group):
        name, found, rest = command.resolve_command(context, rest)
        assert found is not None, words
        command, context = found, click.Context(found, info_name=name, parent=context)
    values, left, _ = command.make_parser(context).parse_args(args=list(rest))
    assert left == []
    needed = [param for param in command.params if param.required]
    assert [p.name for p in needed if p.value_is_missing(p.consume_value(context, values)[0])] == [], words


def heed_signals() -> None:
    """For a process that a test starts: a suite in the background or under `nohup` ignores some, as would the child."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
