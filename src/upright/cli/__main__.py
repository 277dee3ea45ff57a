"""`python -m upright.cli` is the `upright` command."""

import sys

from upright.cli.main import main

if __name__ == "__main__":  # a worker process that is spawned imports this module again
    sys.exit(main())
