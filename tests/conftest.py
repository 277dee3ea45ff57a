"""What every test shares: one thread, so that two workers do not fight over two cores, and no test against the clock."""

import os

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")

settings.register_profile("steady", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# Where a change is judged, the same examples each time; elsewhere new ones, which may find something.
settings.register_profile("judge", settings.get_profile("steady"), derandomize=True)
settings.register_profile("quick", settings.get_profile("judge"), max_examples=10)  # for scripts/check
settings.load_profile("judge" if os.environ.get("CI") else "steady")


@pytest.fixture
def tried(record_property):
    """Counts a fault's tries: `tried("kill -9", survived)`. `make test-faults` prints all of them at its end."""
    rows: list[list[object]] = []
    record_property("faults", rows)

    def count(fault: str, survived: bool) -> bool:
        row = next((each for each in rows if each[0] == fault), None)
        if row is None:
            rows.append(row := [fault, 0, 0])
        row[1] += 1
        row[2] += bool(survived)
        return survived

    return count


def pytest_terminal_summary(terminalreporter) -> None:
    if not os.environ.get("UPRIGHT_FAULTS"):
        return
    totals: dict[str, list[int]] = {}
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            for fault, tries, survived in dict(report.user_properties).get("faults", []):
                total = totals.setdefault(fault, [0, 0])
                total[0] += tries
                total[1] += survived
    terminalreporter.section("faults")
    terminalreporter.line(f"{'fault':<70}{'tries':>8}{'survived':>10}")
    for fault, (tries, survived) in sorted(totals.items()):
        terminalreporter.line(f"{fault:<70}{tries:>8,}{survived:>10,}")
