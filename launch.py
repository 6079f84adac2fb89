"""Start vidrec from a checkout; `python launch.py --help` lists the commands."""

from vidrec.cli.main import main

if __name__ == "__main__":
    main()
