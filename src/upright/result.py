"""A run trained to its end, judged and saved: what `upright train`, `resume` and every seed of an experiment do."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from upright.errors import Diverged, RunError, UprightError
from upright.evaluation import Evaluation, EvaluationProgress, EvaluationSink, GreedyEpisode
from upright.loop import train
from upright.runs.metrics import Sink
from upright.runs.run import Run


class Ended(NamedTuple):
    """The end of a run: result.json's values, the final evaluation or None, and the signal that stopped it or None.

    A signal may have come within the evaluation, which then consists of the episodes that had ended.
    """

    result: dict[str, Any]
    evaluation: Evaluation | None
    signal: int | None


def train_to_result(
    run: Run,
    began: float,
    preset: str | None = None,
    sinks: Sequence[Sink] = (),
    evaluation_sinks: Sequence[EvaluationSink] = (),
    hasty: bool = True,
) -> Ended:
    """Train a run to its end, evaluate the final policy, save it with its result, and close the run.

    began: `time.perf_counter()` when the run's making began · preset: where its settings started from
    sinks, evaluation_sinks: take what happens while it trains, and while its final policy is evaluated
    SIGINT and SIGTERM stop it after its step, with a checkpoint and without an evaluation, or stop the evaluation,
    whose result is then that of the episodes that have ended. hasty: a second one breaks off the save, and the
    checkpoint before stays. Only the main thread can be stopped so, or call this.
    """
    try:
        received: list[int] = []
        evaluation = None
        with signals(received, run, hasty):
            with contextlib.suppress(KeyboardInterrupt):  # the second: what the last checkpoint holds is safe
                _loop(run, sinks)
                if not run.interrupted:
                    run.checkpoint()
            run.save()
        if not received and not run.stopping:  # which the dashboard may set, too
            evaluation = _evaluate(run, evaluation_sinks, received, hasty)
        result = _result(run, preset, evaluation, time.perf_counter() - began)
        run.save_result(result)
        return Ended(result, evaluation, received[0] if received else None)
    except Exception as error:
        if run.step == 0:
            run.discard()
            raise
        if isinstance(error, Diverged):  # and what is saved stays, because it is from before
            if run.checkpointed is None:
                raise
            raise UprightError(f"{error} The checkpoint of step {run.checkpointed:,} stays in {run.folder}.") from error
        kept = f"What was learned in {run.step:,} steps is saved in {run.folder}."
        try:
            run.save()
        except RunError as unsaved:
            kept = f"The policy is not saved: {unsaved}"
        if not isinstance(error, UprightError):
            raise
        raise UprightError(f"{error} {kept}") from error
    finally:
        run.close()


@contextlib.contextmanager
def signals(received: list[int], run: Run | None = None, hasty: bool = True) -> Iterator[None]:
    """Note SIGINT and SIGTERM. The first lets a run stop after its step, or without one raises KeyboardInterrupt.

    The second raises KeyboardInterrupt where that is wanted (hasty); its argument is the number of the first.
    """

    def stop(number: int, frame: object) -> None:
        received.append(number)
        if (run is None and len(received) == 1) or (hasty and len(received) > 1):
            raise KeyboardInterrupt(received[0])
        if run is not None:
            run.stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _loop(run: Run, sinks: Sequence[Sink]) -> None:
    """Run the loop to its end, or to where it is stopped."""
    try:
        for progress in train(run):
            for sink in sinks:
                sink.write(progress)
    finally:
        for sink in sinks:
            sink.close()


def _evaluate(run: Run, sinks: Sequence[EvaluationSink], received: list[int], hasty: bool) -> Evaluation | None:
    """Evaluate the final policy; None where not one episode came to its end, or none was asked for."""
    count, total = run.config.n_final_episodes, 0.0
    ended: list[GreedyEpisode] = []
    if count == 0:
        return None
    try:
        with signals(received, hasty=hasty), contextlib.closing(run.greedy_episodes(count)) as episodes:
            for sink in sinks:
                sink.write(EvaluationProgress(0, count, None))
            for episode in episodes:
                ended.append(episode)
                total += episode.reward
                for sink in sinks:
                    sink.write(EvaluationProgress(len(ended), count, total / len(ended)))
    except KeyboardInterrupt:
        if not received:
            received.append(signal.SIGINT)
    finally:
        for sink in sinks:
            sink.close()
    return Evaluation.of(ended, run.vector.threshold) if ended else None


def _result(run: Run, preset: str | None, evaluation: Evaluation | None, seconds: float) -> dict[str, Any]:
    return {
        "env": run.name,
        "preset": preset,
        "seed": run.seed,
        "engine": run.agent.learner.engine,
        "steps": run.step,
        "updates": run.updates,
        "seconds": round(seconds, 3),
        **scores(evaluation),
        "run": str(run.folder),
    }


def scores(evaluation: Evaluation | None) -> dict[str, Any]:
    """Return an evaluation's values for JSON; null where there was no evaluation, or no threshold."""
    return {
        "final_mean": evaluation and evaluation.mean,
        "final_std": evaluation and evaluation.std,
        "episodes": 0 if evaluation is None else len(evaluation.returns),
        "threshold": evaluation and evaluation.threshold,
        "solved": evaluation and evaluation.solved,
        "success_rate": evaluation and evaluation.success_rate,
    }
