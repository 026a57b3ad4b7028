"""`python -m flows.cli` is the `evergreen` command."""

from flows.cli.main import main

if __name__ == "__main__":
    main()
