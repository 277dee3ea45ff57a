"""`python -m upright.dashboard`: what `upright train --dashboard` starts."""

from upright.dashboard.server import main

if __name__ == "__main__":  # a worker that is spawned imports this module again
    main()
