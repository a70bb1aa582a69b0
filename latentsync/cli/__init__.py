"""The ``latentsync`` command."""

from latentsync.cli.signals import exit_on_signals


def main() -> None:
    """Run the command line. Ctrl-C is handled from before the first slow import."""
    exit_on_signals()
    from latentsync.cli.app import main as run_command

    run_command()
