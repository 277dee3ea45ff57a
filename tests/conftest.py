"""What every test shares: one thread, so that two workers do not fight over two cores, and no test against the clock."""

import os

from hypothesis import HealthCheck, settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")

settings.register_profile("steady", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# Where a change is judged, the same examples each time; elsewhere new ones, which may find something.
settings.register_profile("judge", settings.get_profile("steady"), derandomize=True)
settings.load_profile("judge" if os.environ.get("CI") else "steady")
