"""`python -m flows.demo [DATA [FOLDER]]` runs the demo."""

import sys

from flows.demo.main import main

if __name__ == "__main__":
    sys.exit(main())
