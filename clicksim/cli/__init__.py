"""The command line: it parses options, calls the library and prints results.

Results go to stdout, progress and notes to stderr. Exit codes: 0 for success; 1 for an error, with one line that says
why; 2 for wrong usage; 130 for an interruption; 143 and 129 for SIGTERM and SIGHUP. Commands are loaded when they are
called, so that `clicksim --help` is fast.
"""

import signal
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click

from clicksim import __version__
from clicksim.errors import ClicksimError

COMMANDS = {
    "annotators": "Models of the person who prompts; fit one to recorded prompts.",
    "catalog": "Show, check, query, merge and move a catalog.",
    "clicks": "Simulated clicks for one case or a folder of cases.",
    "convert": "Convert a publisher's folder into a catalog.",
    "demo": "See what clicksim does in seconds: phantoms, clicks, pictures and a report.",
    "encode": "Draw guidance channels from prompts, check them, and write them to files.",
    "manifest": "Export a catalog for trainers, challenges and archives.",
    "predictors": "The kinds of predictors for rounds, with their options.",
    "protocols": "The rules that clicksim knows, with all their settings.",
    "refine": "Fit a prediction to the uptake by a threshold, as DEEP-PSMA does.",
    "report": "One page about a catalog: figures, cases with pictures, findings, curves.",
    "rounds": "Alternate prompts and predictions, and score every round.",
    "score": "Score a prediction: Dice, lesion F1, false volumes.",
    "scribbles": "Simulated scribbles for a label, or for a prediction's errors.",
    "verify": "Simulate a prompt run again and compare voxel by voxel.",
}


class Refusing(click.Group):
    """A group, named like its program, that reports an error in one line on stderr, with exit code 1.

    This covers `ClicksimError`, a full or failing disk, and too little memory. Any other error is a bug and keeps its
    traceback.
    """

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. Report an error in one line; after a signal, also say how to continue."""
        from clicksim.interruption import Terminated, ending_in_order

        words = _words(ctx)  # click empties them
        try:
            with ending_in_order():
                return super().invoke(ctx)
        except (KeyboardInterrupt, Terminated) as ended:
            number = ended.number if isinstance(ended, Terminated) else signal.SIGINT
            click.echo(f"{self.name}: ended by {signal.Signals(number).name}; {_way_on(self, ctx, words)}", err=True)
            raise click.exceptions.Exit(128 + number) from None
        except (ClicksimError, OSError, MemoryError) as error:
            from clicksim.files import one_line

            line = one_line(error)
            if line is None:
                raise
            click.echo(f"{self.name}: {line}", err=True)
            raise click.exceptions.Exit(1) from error


def _words(ctx: click.Context) -> list[str]:
    """Return the command line after the group; click 8.1 and 8.2 keep the first word in different places."""
    known = vars(ctx)
    return [*known.get("_protected_args", known.get("protected_args", ())), *ctx.args]


def _way_on(group: click.Group, ctx: click.Context, words: Sequence[str]) -> str:
    """Say how to continue after an interruption."""
    command: click.Command = group
    for word in words:
        if isinstance(command, click.Group):
            command = command.get_command(ctx, word) or command
    names = {name for param in command.params for name in param.opts}
    if "--resume" in names:
        return "finished work is kept; continue with --resume"
    return "no file is half-written; run the command again"


class Listing(click.Group):
    """A group whose help shows the whole first paragraph of each command, which click would cut."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list for `--help`."""
        rows = [(name, (self.commands[name].help or "").split("\n\n")[0]) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, " ".join(text.split())) for name, text in rows])


class LazyGroup(Refusing):
    """A group with one file per command, each defining `command`; files are imported on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, without an import."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return the command."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"clicksim.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list for `--help`, without an import."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


@click.group("clicksim", cls=LazyGroup, context_settings=CONTEXT)
@click.version_option(__version__, prog_name="clicksim")
def main() -> None:
    """Simulated prompts for interactive lesion segmentation of PET/CT.

    \b
    clicksim demo                                                       see what it does
    clicksim clicks --label case.nii.gz --pet case_0001.nii.gz          clicks as JSON on stdout
    clicksim clicks --label case.nii.gz --protocol autopet-iv@1         as the organisers published them
    clicksim protocols autopet-iv@2                                     a rule and its settings
    """  # noqa: D301 - click wants the character itself
