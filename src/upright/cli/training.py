"""`upright train` of one seed, and `upright resume`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from upright.cli.arguments import Resume, Train
from upright.dashboard import beside
from upright.environments.trust import needs_trust
from upright.errors import SettingError
from upright.evaluation import EvaluationSink
from upright.result import Ended, train_to_result
from upright.runs.description import is_complete
from upright.runs.folders import RunFolder, new_folder, seed_folder
from upright.runs.metrics import Sink, TensorBoard
from upright.runs.run import Run
from upright.views.terminal import EvaluationTerminal, Terminal, console_on, printed


def train(arguments: Train) -> int:
    """Train one run and evaluate its final policy, or those of several seeds."""
    if arguments.seeds is not None:
        from upright.cli.experiments import experiment

        return experiment(arguments)
    for name in ("jobs", "cluster", "storage_url"):
        if getattr(arguments, name) is not None:
            raise SettingError(
                f"--{name.replace('_', '-')} is for several seeds at once: give their number with --seeds."
            )
    config = arguments.config
    if arguments.out is None:
        folder = new_folder(Path("runs"), arguments.env, config, arguments.name, arguments.seed)
    else:
        folder = seed_folder(arguments.out, arguments.seed)
    return _finish(arguments, folder, lambda: Run(arguments.env, config, arguments.seed, folder), arguments.preset)


def resume(arguments: Resume) -> int:
    """Resume a run from its newest checkpoint."""
    folder = arguments.run
    return _finish(
        arguments, folder, lambda: Run.open(folder, arguments.total_timesteps, arguments.env, trust=arguments.trust)
    )


def _finish(arguments: Train | Resume, folder: Path, begin: Callable[[], Run], preset: str | None = None) -> int:
    """Train a run to its end, or to where it is stopped, and print its result; the exit status."""
    console = console_on(sys.stderr if arguments.json else sys.stdout)
    trust = isinstance(arguments, Resume) and arguments.trust  # a new run vouches for no other in its folder
    with printed(console, arguments.quiet) as say, beside.if_asked(arguments.dashboard, folder, trust, console):
        ended = _train_run(arguments, folder, begin, preset, console, say)
    if arguments.json:
        print(json.dumps(ended.result))
    return 0 if ended.signal is None else 128 + ended.signal


def _train_run(
    arguments: Train | Resume,
    folder: Path,
    begin: Callable[[], Run],
    preset: str | None,
    console: Any,
    say: Callable[[str], None],
) -> Ended:
    began = time.perf_counter()
    judged: list[EvaluationSink] = []
    sinks: list[Sink] = [TensorBoard(RunFolder(folder).tensorboard)] if arguments.tensorboard else []
    run = begin()
    try:
        learner, total, first = run.agent.learner, run.config.total_timesteps, run.step
        since = f" from step {first:,}" if first else ""
        say(f"Training {run.name} for {total:,} steps{since}: engine {learner.engine} on {learner.device}.")
        if not arguments.quiet:
            sinks.append(Terminal(console, total, run.name, run.agent.engine, first))
            judged.append(EvaluationTerminal(console))
    except BaseException:
        run.discard()
        raise
    ended = train_to_result(run, began, preset, sinks, judged)
    say(_conclusion(run, ended, folder))
    say(f"Run: {folder}")
    return ended


def _conclusion(run: Run, ended: Ended, folder: Path) -> str:
    """The final policy's evaluation, or where the run was stopped, and how to continue."""
    resume = f"upright resume {folder}" + (" --trust" if needs_trust(run.source, run.config) else "")
    if is_complete(ended.result, run.config):
        return f"Final policy: {ended.evaluation or 'not evaluated (n_final_episodes is 0)'}."
    if ended.evaluation is not None:
        episodes = f"all {run.config.n_final_episodes:,} episodes"
        return f"Stopped in the final evaluation: {ended.evaluation}; for {episodes}: {resume}"
    if run.checkpointed is None:
        return f"Stopped at step {run.step:,}, with no checkpoint to resume from."
    since = "" if run.checkpointed == run.step else f" from step {run.checkpointed:,}"
    return f"Stopped at step {run.step:,}; resume{since} with: {resume}"
