"""Each environment is in use at one place alone: training, evaluation and every worker need one of their own.

With a callable that returns the same object each time, or two environments around one simulator, the episodes of one
place would go on in another's.
"""

from __future__ import annotations

import gc
import os
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium

from upright.errors import EnvironmentFault

MOST_HELD = 1_000  # values of a list or dict that are looked at: what is longer is data
# What is in use, by its id, with the process that uses it: a worker that was forked inherits copies of its parent's.
_in_use: dict[int, tuple[Any, int]] = {}


def claim(user: Any, env: gymnasium.Env[Any, Any], name: str) -> Callable[[], object]:
    """Note that `user` uses an environment and the simulators that it holds, until it is garbage or calls the result.

    Raises EnvironmentFault where they are in use already.
    """
    things = list(_stateful(env))
    if any(map(_is_in_use, things)):
        gc.collect()  # what used it may be garbage
    for thing in filter(_is_in_use, things):
        what = "the same environment" if thing is env.unwrapped else f"the same {type(thing).__name__}"
        raise EnvironmentFault(
            f"{name} uses {what} at several places at once, but training, evaluation and every worker need one of "
            "their own: make a new one each time, as lambda: MyEnv() does, and close those no longer used. If only one "
            "may exist, evaluate in training's own: n_eval_envs=0 (--n-eval-envs 0)."
        )
    for thing in things:
        _in_use[id(thing)] = thing, os.getpid()
    return weakref.finalize(user, _release, [id(thing) for thing in things])


def hint() -> str:
    """What may be wrong, where one environment is open already and another one cannot be made; else nothing."""
    if not any(process == os.getpid() for _, process in _in_use.values()):
        return ""
    return (
        ". If only one may exist at a time, take num_envs=1, and evaluate in training's own: n_eval_envs=0 "
        "(--n-eval-envs 0)"
    )


def _release(keys: list[int]) -> None:
    for key in keys:
        _in_use.pop(key, None)


def _is_in_use(thing: Any) -> bool:
    return id(thing) in _in_use and _in_use[id(thing)][1] == os.getpid()


def _stateful(env: gymnasium.Env[Any, Any]) -> Iterator[Any]:
    """An environment, and what it or a wrapper holds that has episodes of its own, as a simulator has.

    That is an object with a state and something to reset or to step, held directly or in a list or dict.
    """
    layer: Any = env
    while isinstance(layer, gymnasium.Wrapper):
        yield from filter(_is_simulator, _held(layer))
        layer = layer.env
    yield layer
    yield from filter(_is_simulator, _held(layer))


def _held(holder: Any) -> Iterator[Any]:
    """The values of an object's attributes and its own class's, with what lists and dicts among them hold."""
    values = list(getattr(holder, "__dict__", {}).values())
    for cls in type(holder).__mro__:
        if not (cls.__module__ or "").startswith(("gymnasium.", "builtins", "typing")):
            values += list(vars(cls).values())
    for value in values:
        yield value
        if isinstance(value, (list, tuple, dict)) and len(value) <= MOST_HELD:
            yield from value.values() if isinstance(value, dict) else value


def _is_simulator(value: Any) -> bool:
    if isinstance(value, (type, types.ModuleType, types.FunctionType, types.MethodType, gymnasium.Wrapper)):
        return False
    has_state = bool(getattr(value, "__dict__", None)) or bool(getattr(type(value), "__slots__", ()))
    return has_state and any(callable(getattr(type(value), name, None)) for name in ("reset", "step"))
