"""`clicksim` called as from a shell, in this process."""

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
