"""`python -m flows.demo [DATA [FOLDER]]` runs the demo."""

from flows.demo.main import main

if __name__ == "__main__":
    main()
