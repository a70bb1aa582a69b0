"""``python -m latentsync``."""

from latentsync.cli import main

if __name__ == "__main__":
    main()
