"""The choice of an engine, the reason for it, and the engine's learner."""

from __future__ import annotations

import functools
import importlib.util
import math

from upright.errors import MissingExtra, SettingError, UprightError
from upright.learners.contract import Learner, NetworkSource, moments, parameter_forms
from upright.learners.problem import Problem
from upright.machine import available_bytes, has_nvidia_card, in_gib
from upright.messages import logger
from upright.settings.config import Config

COMPILERS = "apt install g++, xcode-select --install or conda install gxx"
NO_EXTENSION = f"upright was installed without a C++ compiler (get one by {COMPILERS}, and install upright again)"


def obstacle_to_native(config: Config, problem: Problem, has_own_network: bool) -> str | None:
    """Return why the native engine cannot do this, as the end of a sentence; None when it can."""
    if has_own_network:
        return "the network is your own"
    if problem.is_image:
        return "the observations are images"
    if config.device not in ("auto", "cpu"):
        return f"device is {config.device}"
    if not _is_installed("upright._native"):
        return NO_EXTENSION
    from upright.learners import native

    return native.obstacle(config, problem)


def _is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _check_torch(because: str) -> None:
    """Raise MissingExtra, with the line that installs it, where PyTorch is needed and missing."""
    if _is_installed("torch"):
        return
    if because == NO_EXTENSION:
        raise MissingExtra(
            "upright was installed without a C++ compiler, and PyTorch is not installed either: get a compiler "
            f"({COMPILERS}) and install upright again, or pip install 'upright[torch]'"
        )
    raise MissingExtra(f"PyTorch is needed, because {because}, and it is not installed: pip install 'upright[torch]'")


@functools.cache  # so that it is mentioned once
def mention_unused_card() -> None:
    """Log how an NVIDIA card that is here can be used, where PyTorch was built without CUDA or is missing."""
    if not has_nvidia_card():
        return
    if not _is_installed("torch"):
        install = "pip install 'upright[torch]'"
    else:
        import torch

        if torch.version.cuda is not None:
            return
        install = "pip install --force-reinstall 'torch<3'"
    logger.info(f"This machine has an NVIDIA card, which would help with images but needs PyTorch with CUDA: {install}")


def _check_memory(config: Config, problem: Problem) -> None:
    """Refuse, before anything is allocated, a network of upright's own that this machine cannot hold."""
    count = sum(math.prod(form.shape) for form in parameter_forms(config, problem).values())
    # Online, target, gradient and moments in float32; and the first values, drawn in float64.
    needed, available = count * (4 * (3 + len(moments(config))) + 12), available_bytes()
    if available is not None and needed > available:
        raise UprightError(
            f"The network needs {in_gib(needed)}, and {in_gib(available)} are available here: lower net_arch, or make "
            "the observations smaller with a wrapper."
        )


def why_engine(config: Config, problem: Problem, has_own_network: bool) -> str:
    """Return in a few words why `make_learner` takes the engine that it takes."""
    if config.engine != "auto":
        return "as chosen"
    obstacle = obstacle_to_native(config, problem, has_own_network)
    return "it can do all of this, and is the faster" if obstacle is None else f"because {obstacle}"


def make_learner(config: Config, problem: Problem, seed: int, network: NetworkSource | None = None) -> Learner:
    """Return the learner for these settings; `network`: a module, or a factory of one, to use instead of the settings'.

    Logs why to "upright" when engine is auto and it takes torch. Raises SettingError when engine is native and cannot
    do it, and MissingExtra when PyTorch is needed and not installed.
    """
    if network is None:
        _check_memory(config, problem)
    if problem.is_image and config.device == "auto":
        mention_unused_card()
    if config.engine == "torch":
        _check_torch("engine is torch")
    else:
        obstacle = obstacle_to_native(config, problem, network is not None)
        if obstacle is None:
            from upright.learners.native import NativeLearner

            return NativeLearner(config, problem, seed)
        if config.engine == "native":
            raise SettingError(f"engine is native, which cannot do this: {obstacle}; choose --engine torch or auto.")
        _check_torch(obstacle)
        logger.info(f"The engine is torch, because {obstacle}.")
    from upright.learners.torch.learner import TorchLearner

    return TorchLearner(config, problem, seed, network)
