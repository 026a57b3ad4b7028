"""`python -m flows.cli` is the `evergreen` command."""

from flows.cli.main import entry

if __name__ == "__main__":
    entry()
