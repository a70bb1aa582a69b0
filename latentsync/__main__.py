"""``python -m latentsync`` and the ``latentsync`` command."""

from latentsync.signals import exit_on_signals


def main() -> None:
    """Run the command line; Ctrl-C is heeded before the first slow import."""
    exit_on_signals()
    from latentsync import cli

    cli.main()


if __name__ == "__main__":
    main()
