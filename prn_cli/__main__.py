"""`python -m prn_cli` and the `prn` command."""

from prn_cli.commands.app import main

if __name__ == "__main__":
    main()
