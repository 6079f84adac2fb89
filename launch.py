"""Starts vidrec from a checkout; `python launch.py --help` says what it can do."""

from vidrec.cli.main import main

if __name__ == "__main__":
    main()
