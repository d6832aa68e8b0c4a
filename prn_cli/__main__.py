"""`python -m prn_cli` and the `prn` command."""

import signal


def main() -> None:
    """Entry point of the `prn` command."""
    # Until the application handles it, an interrupt ends the process quietly, and not with the traceback of an import.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from prn_cli.commands.app import main as run

    run()


if __name__ == "__main__":
    main()
