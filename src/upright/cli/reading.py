"""`upright envs`, `plot`, `compare` and `dashboard`: the commands that train nothing and play nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import sys

from upright.cli.arguments import Compare, Dashboard, Envs, Plot
from upright.comparison import picture
from upright.comparison.compare import read_comparison
from upright.comparison.curves import check_picture, plot_curves, save
from upright.comparison.report import report_on
from upright.comparison.table import tables
from upright.dashboard.beside import check_installed
from upright.environments import registry
from upright.environments.sources import unknown_environment
from upright.errors import SettingError
from upright.runs.folders import SEED
from upright.views.terminal import console_on


def envs(arguments: Envs) -> int:
    """Print the registry with a verdict on each id."""
    names = registry.registered(arguments.filter)
    if not names:
        raise SettingError(unknown_environment(arguments.filter))
    entries = [registry.inspect(name) for name in names]
    if arguments.json:
        for entry in entries:
            print(json.dumps({**dataclasses.asdict(entry), "trains": entry.trains}))
        return 0
    from rich import box
    from rich.table import Table

    table = Table("id", "observation", "action", "threshold", "verdict", box=box.SIMPLE_HEAD)
    for entry in entries:
        threshold = "" if entry.threshold is None else f"{entry.threshold:g}"
        table.add_row(entry.id, entry.observation, entry.action, threshold, entry.verdict)
    console_on(sys.stdout).print(table)
    return 0


def plot(arguments: Plot) -> int:
    """Draw the curves of runs into a file."""
    for experiment in plot_curves(arguments.runs, arguments.out, arguments.returns, arguments.smooth):
        print(f"{experiment.env}, {experiment.label}: {', '.join(experiment.curves)}")
    print(f"Picture: {arguments.out}")
    return 0


def compare(arguments: Compare) -> int:
    """Print experiments side by side, and draw them if a picture is asked for."""
    if arguments.out is not None:
        check_picture(arguments.out)
    comparison = read_comparison(arguments.experiments)
    report = report_on(comparison)
    if arguments.out is not None:
        save(picture.draw(comparison), arguments.out)
    if arguments.json:
        print(json.dumps(report.to_dict()))
        return 0
    console = console_on(sys.stdout)
    for shown in tables(report, console.width):
        console.print(shown, highlight=False, soft_wrap=isinstance(shown, str), markup=False)
    if arguments.out is not None:
        print(f"Picture: {arguments.out}")
    return 0


def dashboard(arguments: Dashboard) -> int:
    """Serve the dashboard until Ctrl-C."""
    check_installed()
    from upright.dashboard.server import serve

    root = arguments.runs
    if root.name.startswith(SEED):  # a run: its experiment is what can be compared
        root = root.absolute().parent
    with contextlib.suppress(KeyboardInterrupt):
        serve(
            root,
            arguments.host,
            arguments.port,
            arguments.allow_remote,
            arguments.trust,
            functools.partial(print, flush=True),
        )
    return 0
