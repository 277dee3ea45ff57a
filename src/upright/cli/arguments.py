"""The command line's words as dataclasses, of which tyro makes the options."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from upright.settings.config import FINAL_EPISODES, Config
from upright.settings.kinds import KINDS
from upright.settings.presets import PRESETS


def _name(text: str, names: Iterable[str]) -> Any:
    return tyro.conf.arg(metavar="NAME", help=f"{text}: {', '.join(names)}.")


@dataclass(frozen=True)
class Envs:
    """List Gymnasium's registry: observation, action, reward threshold, and whether upright trains on it."""

    filter: Annotated[str, tyro.conf.Positional] = ""
    """Only ids that contain this text."""
    json: bool = False
    """Print one JSON object a line."""


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train an agent, or one a seed; evaluate final policies greedily; keep all in run folders."""

    env: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ENV")]
    """A Gymnasium id, or module:Id, or module:Class (a class derived from gymnasium.Env)."""
    config: Annotated[Config, tyro.conf.arg(name="")]
    preset: Annotated[str, _name("Where the settings start from", PRESETS)]
    settings: Annotated[Path | None, tyro.conf.arg(name="config", metavar="FILE")] = None
    """A JSON file of settings that take the place of the preset's: a study's best.json, or a config.json, or part."""
    loss: Annotated[str, _name("What the network represents, with its own --loss.…", KINDS["loss"])]
    replay: Annotated[str, _name("How a batch is drawn, with its own --replay.…", KINDS["replay"])]
    munchausen: bool
    """Munchausen's log-policy reward; its settings are --munchausen.…"""
    seed: int = 0
    """Seed of everything random: environments, parameters, exploration, batches. [0, inf)."""
    seeds: int | None = None
    """Train that many seeds side by side, --seed the first; called again, it does what is missing. [1, 10000]."""
    jobs: int | None = None
    """With --seeds: seeds trained at once, at most; default: as many as there are cores. [1, inf)."""
    cluster: str | None = None
    """With --seeds: address of a Ray cluster to train them on; auto: this machine's, if any; local: a new one."""
    storage_url: str | None = None
    """With --cluster: fsspec URL where its machines keep the seeds, if they do not have --out's folder in common."""
    out: Path | None = None
    """Folder of the experiment, in which the run takes seed-<seed>; default: a free runs/<env>/<preset>."""
    tensorboard: bool = False
    """Also write event files for TensorBoard into the run folder."""
    dashboard: bool = False
    """Serve the dashboard beside the run, as long as it trains, and print its link."""
    quiet: bool = False
    """Print nothing but errors, and the object that --json asks for."""
    json: bool = False
    """Print the result as one JSON object on the last line of standard output; all else goes to standard error."""

    @property
    def name(self) -> str:
        """The name of the experiment: the preset, or the file, or the folder of a config.json."""
        if self.settings is None:
            return self.preset
        return self.settings.resolve().parent.name if self.settings.name == "config.json" else self.settings.stem


@dataclass(frozen=True, kw_only=True)
class Sweep(Train):
    """Train an experiment for each point of a grid: settings take several values, and all combine.

    A list is one value: --net-arch 64,64 256. A switch takes true and false: --dueling true false. --env-kwargs and
    --wrapper alone take their words together, as in `upright train`.
    """

    seeds: int = 5
    """Seeds of each point, --seed the first; called again, the sweep does what is missing. [1, 10000]."""
    out: Path | None = None
    """Folder of the sweep, in which each point is an experiment; default: runs/<env>/<settings that are swept>."""


@dataclass(frozen=True, kw_only=True)
class Tune(Train):
    """Search for settings with Optuna, and write the best as a file that `upright train ENV --config` takes.

    A setting that is given here is no longer searched.
    """

    trials: int = 50
    """Configurations to try, those of the same command before included. [1, inf)."""
    seeds: int = 3
    """Seeds that each of them is trained with, --seed the first. [1, 10000]."""
    jobs: int | None = None
    """Seeds trained at once, at most; default: all of a trial, since it can be pruned when all have come so far."""
    space: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """A JSON file with what to search in place of the table in the documentation."""
    out: Path | None = None
    """Folder of the study, in which each trial is an experiment; default: runs/<env>/tune."""
    given: tyro.conf.Suppress[tuple[str, ...]] = ()


@dataclass(frozen=True)
class Resume:
    """Go on with a run that was stopped or killed, from its newest checkpoint, as if it had never stopped."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of the run."""
    total_timesteps: int | None = None
    """Train to that many environment steps instead, also where the run had ended. [1, inf)."""
    env: str | None = None
    """The environment again, where its name has changed or was a Python callable."""
    trust: bool = False
    """Import the modules that the run's files name for its environment and wrappers, and so run their code."""
    tensorboard: bool = False
    """Also write event files for TensorBoard into the run folder."""
    dashboard: bool = False
    """Serve the dashboard beside the run, as long as it trains, and print its link."""
    quiet: bool = False
    """Print nothing but errors, and the object that --json asks for."""
    json: bool = False
    """Print the result as one JSON object on the last line of standard output; all else goes to standard error."""


@dataclass(frozen=True)
class Evaluate:
    """Run the greedy policy of a run on fresh environments with seeds of their own."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of a run, or of a saved policy."""
    episodes: int = FINAL_EPISODES
    """Episodes to run. [1, inf)."""
    seed: int = 0
    """Seed of the episodes. [0, inf)."""
    env: str | None = None
    """Environment to evaluate on, instead of the one that it was trained on."""
    trust: bool = False
    """Import the modules that the policy's file names for its environment and wrappers, and so run their code."""
    json: bool = False
    """Print the result as one JSON object on the last line of standard output."""


@dataclass(frozen=True)
class Watch:
    """Render greedy episodes of a run in a window."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of a run, or of a saved policy."""
    episodes: int = 3
    """Episodes to show. [1, inf)."""
    seed: int = 0
    """Seed of the episodes. [0, inf)."""
    env: str | None = None
    """Environment to show, instead of the one that it was trained on."""
    trust: bool = False
    """Import the modules that the policy's file names for its environment and wrappers, and so run their code."""


@dataclass(frozen=True)
class Plot:
    """Draw the learning curves of runs and experiments into a file."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN...")]
    """Folders of runs, or of experiments, whose seeds become one curve."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="FILE")]
    """The picture to write; its suffix says as what: png, svg or pdf."""
    returns: Literal["auto", "train", "eval"] = "auto"
    """Of the episodes while training, or of the evaluations; auto: the evaluations', where all runs have some."""
    smooth: int | None = None
    """Episodes, or evaluations, that each point is the mean of; default: 100 episodes, or 1 evaluation. [1, inf)."""


@dataclass(frozen=True)
class Compare:
    """Put experiments side by side: final policies with intervals, probability of improvement, learning curves."""

    experiments: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="EXPERIMENT...")]
    """Folders of experiments, or folders that hold some; the first is what the others are compared with."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="FILE")] = None
    """A picture to write: curves, profiles and intervals; its suffix says as what: png, svg or pdf."""
    json: bool = False
    """Print the comparison as one JSON object on the last line of standard output, in place of the tables."""


@dataclass(frozen=True)
class Record:
    """Make a video of greedy episodes of a run, with the values of the actions beside them."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of a run, or of a saved policy."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="FILE")]
    """The video to write; its suffix says as what: mp4, gif or webp."""
    episodes: int = 1
    """Episodes to record. [1, inf)."""
    plain: bool = False
    """Only what the environment renders, without the values."""
    seed: int = 0
    """Seed of the episodes. [0, inf)."""
    env: str | None = None
    """Environment to record, instead of the one that it was trained on."""
    trust: bool = False
    """Import the modules that the policy's file names for its environment and wrappers, and so run their code."""


@dataclass(frozen=True)
class Dashboard:
    """Serve a local page on which runs are compared, agents watched, and training stopped; print its link."""

    runs: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUNS")] = Path("runs")
    """Folder below which runs are looked for."""
    host: str = "127.0.0.1"
    """Address to serve on; any that other machines can reach needs --allow-remote."""
    port: int | None = None
    """Port to serve on; default: 8765, or a free one where that is taken. [0, 65535]."""
    allow_remote: bool = False
    """Let other machines in, unencrypted: anyone who has the link sees every run and can stop training."""
    trust: bool = False
    """Import the modules that the runs' files name for environments and wrappers, and so run their code."""
