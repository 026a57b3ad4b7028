"""`python -m flows.demo [DATA [FOLDER]]` runs the demo."""

import sys

from flows.demo.main import run

if __name__ == "__main__":
    run(sys.argv[1:])
