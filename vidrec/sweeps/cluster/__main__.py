"""Run one job of a local pool: `python -m vidrec.sweeps.cluster FOLDER GROUP`."""

import sys

from vidrec.errors import UserError, refusal
from vidrec.sweeps.cluster.job import Job

if __name__ == "__main__":
    _, folder, group = sys.argv
    try:
        Job(folder, group)()
    except UserError as error:
        sys.exit(f"error: {error}")
    except Exception as error:
        if line := refusal(error):
            sys.exit(f"error: {line}")
        raise
