"""`upright evaluate`, `watch` and `record`: what a saved policy does."""

from __future__ import annotations

import json

from upright.agent import load
from upright.cli.arguments import Evaluate, Record, Watch
from upright.result import scores
from upright.views.record import write_video
from upright.views.watch import show


def evaluate(arguments: Evaluate) -> int:
    """Evaluate a saved policy."""
    agent = load(arguments.run, trust=arguments.trust)
    evaluation = agent.evaluate(arguments.episodes, arguments.seed, arguments.env)
    if arguments.json:
        env = arguments.env or agent.source
        print(json.dumps({"env": env, "seed": arguments.seed, **scores(evaluation), "run": str(arguments.run)}))
    else:
        print(f"{evaluation}.")
    return 0


def watch(arguments: Watch) -> int:
    """Show a saved policy in a window."""
    agent = load(arguments.run, trust=arguments.trust)
    for total, length in show(agent, arguments.episodes, arguments.seed, arguments.env):
        print(f"return {total:g} in {length:,} steps")
    return 0


def record(arguments: Record) -> int:
    """Write episodes of a saved policy to a video."""
    agent = load(arguments.run, trust=arguments.trust)
    for total, length in write_video(
        agent, arguments.out, arguments.episodes, arguments.seed, arguments.env, arguments.plain
    ):
        print(f"return {total:g} in {length:,} steps")
    print(f"Video: {arguments.out}")
    return 0
