"""The encoding of Gymnasium's spaces: observations as flat vectors or images, actions as 0 … A−1.

Vectors are flattened as `gymnasium.spaces.flatten` does: a Discrete becomes a one-hot, a Dict is read in
its own order. Images (uint8, at least 36×36, the least that Nature's convolutions take) become
channels × height × width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from gymnasium import spaces

from upright.errors import SpaceError

SMALLEST_IMAGE = 36
SMALL = 0.1  # what an entry's bound has to be below for it to be stretched
LARGEST_ACTION_TABLE = 4_096


class Observations:
    """The encoding of observations of one space as arrays of one shape and dtype.

    shape, dtype: of one encoded observation; a vector `[D]` or an image `[C, H, W]`
    is_image: whether the convolutional torso reads it

    Vectors made of nothing but one-hots, bits and bytes are stored as uint8, all others as float32.
    stretch: divide each entry whose bounds lie within ±0.1 by the larger of them, so that it reaches ±1: beside entries
    of about 1, a network would learn of MountainCar's velocity, at most 0.07, last of all
    """

    def __init__(self, space: spaces.Space[Any], stretch: bool = False) -> None:
        self.space = space
        self._factors: np.ndarray | None = None
        # Where its first part without parts lies, and how many axes that has, tell one observation from a batch.
        self._first: list[Any] = []
        part: Any = space
        while isinstance(part, (spaces.Dict, spaces.Tuple)) and part.spaces:
            self._first.append(next(iter(part.spaces)) if isinstance(part, spaces.Dict) else 0)
            part = part[self._first[-1]]
        self._dimensions = len(part.shape or ())
        layout = _image_layout(space)
        self.is_image = layout is not None
        if layout is not None:
            self.shape: tuple[int, ...] = layout[0]
            self._arrange = layout[1]
            self.dtype: np.dtype[Any] = np.dtype(np.uint8)
            self._read = _reader(space, "the observation")
        else:
            self._read = _reader(space, "the observation")
            size = spaces.flatdim(space)
            if size == 0:
                raise SpaceError(
                    f"The observation space {space} has no entries: an agent that sees nothing cannot learn; "
                    "give the environment an observation."
                )
            self.shape = (size,)
            self.dtype = np.dtype(np.uint8 if _fits_in_bytes(space) else np.float32)
            if stretch and self.dtype == np.float32:
                flat = spaces.flatten_space(space)
                assert isinstance(flat, spaces.Box)
                bound = np.maximum(np.abs(flat.low), np.abs(flat.high)).astype(np.float32)
                small = (bound > 0) & (bound < SMALL)
                if small.any():
                    self._factors = np.where(small, 1 / np.where(small, bound, 1), 1).astype(np.float32)

    def encode(self, observation: Any) -> np.ndarray:
        """One observation as a fresh array of `shape` and `dtype`.

        Raises ValueError, with a text that continues "the environment's observation …", when it does not
        belong to the space by structure, shape, dtype or index, or is not finite.
        """
        value = self._read(observation)
        if self.is_image:
            return np.array(self._arrange(value), self.dtype, order="C")
        encoded = value.astype(self.dtype)
        if self._factors is not None:
            encoded *= self._factors
        # To count is the quickest way to ask whether all are.
        if self.dtype == np.float32 and np.count_nonzero(np.isfinite(encoded)) != encoded.size:
            index = int(np.flatnonzero(~np.isfinite(encoded))[0])
            raise ValueError(f"the observation is {encoded[index]} at entry {index} of {encoded.size}")
        return encoded

    def encode_any(self, observation: Any) -> tuple[np.ndarray, bool]:
        """One observation or a batch of them, as Gymnasium's and SB3's vectors batch: `([B, *shape], single)`."""
        if self.is_single(observation):
            return self.encode(observation)[None], True
        items = _unbatch(self.space, observation)
        if not items:
            return np.empty((0, *self.shape), self.dtype), False
        return np.stack([self.encode(item) for item in items]), False

    def is_single(self, observation: Any) -> bool:
        """True if this is one observation rather than a batch."""
        try:
            for key in self._first:
                observation = observation[key]
        except (KeyError, IndexError, TypeError):
            return True  # encode says what is wrong with it
        return np.ndim(observation) <= self._dimensions


class Actions:
    """The numbering of the actions of one space, 0 … n−1.

    n: number of actions; of a MultiDiscrete, the size of its joint table
    """

    def __init__(self, space: spaces.Space[Any]) -> None:
        self.space = space
        self._sizes: tuple[int, ...] = ()
        self._start = 0
        if isinstance(space, spaces.Discrete):
            self.n = int(space.n)
            self._start = int(space.start)
        elif isinstance(space, spaces.MultiDiscrete):
            self._sizes = tuple(int(size) for size in np.ravel(space.nvec))
            self.n = math.prod(self._sizes)
            if self.n > LARGEST_ACTION_TABLE:
                raise SpaceError(
                    f"The action space {space} has {self.n:,} joint actions, above the {LARGEST_ACTION_TABLE:,} of "
                    "the largest table; merge or fix some of its dimensions with an action wrapper (--wrapper)."
                )
            table = np.stack(np.unravel_index(np.arange(self.n), self._sizes), axis=-1)
            self._table = (table.reshape(self.n, *space.shape) + space.start).astype(space.dtype)
        elif isinstance(space, spaces.Box):
            raise SpaceError(_continuous(space))
        else:
            raise SpaceError(
                f"The action space {space} is not supported: the DQN family needs numbered actions; "
                "wrap the environment so that its actions are Discrete or MultiDiscrete (--wrapper)."
            )

    def decode(self, action: int) -> Any:
        """The environment's action with this number."""
        if self._sizes:
            return self._table[action].copy()
        return action + self._start

    def decode_batch(self, actions: np.ndarray) -> np.ndarray:
        """`decode` for an array `[B]` of numbers; returns `[B]`, or `[B, *space.shape]` for MultiDiscrete."""
        decoded: np.ndarray = self._table[actions] if self._sizes else actions
        return decoded + self._start if self._start else decoded

    def mask(self, mask: Any) -> np.ndarray:
        """`info["action_mask"]` as bool `[n]`; of a MultiDiscrete also as Gymnasium's tuple of one mask a dimension.

        Raises ValueError, with a text that continues "the environment's action_mask …".
        """
        if self._sizes and isinstance(mask, (tuple, list)) and len(mask) == len(self._sizes):
            joint = np.ones((), bool)
            for part in mask:
                joint = np.logical_and.outer(joint, np.asarray(part, bool))
            mask = joint
        array = np.asarray(mask)
        if array.size != self.n or array.dtype.kind not in "bui":
            raise ValueError(
                f"info['action_mask'] has {array.size} entries of type {array.dtype}, not {self.n} zeros and ones"
            )
        return array.reshape(self.n).astype(bool)


def suggested_bins(space: spaces.Box) -> int | None:
    """The most bins a dimension, up to 11, whose joint table is not too large; None when even 2 are too many."""
    dimensions = math.prod(space.shape)
    bins = [n for n in range(2, 12) if n**dimensions <= LARGEST_ACTION_TABLE]
    return bins[-1] if bins else None


def _continuous(space: spaces.Box) -> str:
    problem = undiscretizable(space)
    if problem:
        return f"The action space {space} is continuous, and {problem}."
    return (
        f"The action space {space} is continuous, and the DQN family needs numbered actions: "
        f"add --discretize {suggested_bins(space)} (discretize={suggested_bins(space)} in Python)."
    )


def undiscretizable(space: spaces.Box) -> str | None:
    """Why no number of bins makes this action space a table, or None."""
    dimensions = math.prod(space.shape)
    if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        return "it is unbounded, so it cannot be cut into bins; clip it first with a wrapper such as RescaleAction"
    if suggested_bins(space) is None:
        return (
            f"even 2 bins in each of its {dimensions} dimensions make {2**dimensions:,} joint actions, above the "
            f"{LARGEST_ACTION_TABLE:,} of the largest table; use an algorithm for continuous actions, such as SAC"
        )
    return None


def _image_layout(
    space: spaces.Space[Any],
) -> tuple[tuple[int, ...], Callable[[np.ndarray], np.ndarray]] | None:
    """`([C, H, W], arrange)` of an image space; None of any other, and of grids too small for the convolutions."""
    if not isinstance(space, spaces.Box) or space.dtype != np.uint8 or len(space.shape) not in (2, 3, 4):
        return None
    probe = np.broadcast_to(np.uint8(0), space.shape)
    arrange: Callable[[np.ndarray], np.ndarray]
    if len(space.shape) == 2:  # grey
        arrange = lambda image: image[None]
    elif len(space.shape) == 4:  # a stack of frames, each H×W×C
        arrange = lambda image: np.moveaxis(image, -1, 1).reshape(-1, *image.shape[1:3])
    elif space.shape[0] < space.shape[2]:  # C×H×W, a stack of grey frames among them
        arrange = lambda image: image
    else:
        arrange = lambda image: np.moveaxis(image, -1, 0)
    shape = arrange(probe).shape
    return (shape, arrange) if min(shape[1:]) >= SMALLEST_IMAGE else None


def _reader(space: spaces.Space[Any], name: str) -> Callable[[Any], np.ndarray]:
    """A function from an observation of the space to its values: flat, except a Box of images, which keeps its shape.

    Raises SpaceError for a space that has no such form; the function raises ValueError for a misfit.
    """
    if isinstance(space, spaces.Box):
        keep_shape = _image_layout(space) is not None
        dtype, shape = space.dtype, space.shape
        # What is stored as a byte has to be one; all else becomes float32, for which other widths will do.
        casting: Literal["safe", "same_kind"] = "safe" if dtype.itemsize == 1 else "same_kind"

        def read_box(value: Any) -> np.ndarray:
            array = np.asarray(value)
            if array.shape != shape:
                raise ValueError(f"{name} has shape {array.shape}, not {shape}")
            if array.dtype != dtype and not np.can_cast(array.dtype, dtype, casting):
                raise ValueError(f"{name} has dtype {array.dtype}, not {dtype}")
            return array if keep_shape or array.ndim == 1 else array.reshape(-1)

        return read_box
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)):
        sizes = np.ravel(space.nvec) if isinstance(space, spaces.MultiDiscrete) else np.array([int(space.n)])
        start = np.ravel(space.start).astype(np.int64)
        offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]]) - start
        length = int(sizes.sum())

        def read_indices(value: Any) -> np.ndarray:
            array = np.asarray(value)
            if array.shape != space.shape or array.dtype.kind not in "iu":
                raise ValueError(f"{name} is {value!r}, which is not a member of {space}")
            index = array.reshape(-1)
            if ((index < start) | (index >= start + sizes)).any():
                raise ValueError(f"{name} is {value!r}, which is not a member of {space}")
            one_hot = np.zeros(length, np.uint8)
            one_hot[index + offsets] = 1
            return one_hot

        return read_indices
    if isinstance(space, spaces.MultiBinary):
        shape = space.shape

        def read_bits(value: Any) -> np.ndarray:
            array = np.asarray(value)
            if array.shape != shape or array.dtype.kind not in "biu" or ((array != 0) & (array != 1)).any():
                raise ValueError(f"{name} is not a member of {space}")
            return array.reshape(-1).astype(np.uint8)

        return read_bits
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        keyed: Any = space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)
        readers = {key: _reader(inner, f"{name}[{key!r}]") for key, inner in keyed}
        container = Mapping if isinstance(space, spaces.Dict) else (tuple, list)

        def read_parts(value: Any) -> np.ndarray:
            if not isinstance(value, container) or len(value) != len(readers):
                raise ValueError(f"{name} is a {type(value).__name__}, which is not a member of {space}")
            missing = [key for key in readers if isinstance(value, Mapping) and key not in value]
            if missing:
                raise ValueError(f"{name} has no key {missing[0]!r}")
            return np.concatenate([read(value[key]).reshape(-1) for key, read in readers.items()])

        return read_parts
    raise SpaceError(
        f"The space {space} of {name} is not supported: it has no fixed size to flatten to; wrap the environment "
        "so that it returns Box, Discrete, MultiDiscrete, MultiBinary, or a Dict or Tuple of those (--wrapper)."
    )


def _fits_in_bytes(space: spaces.Space[Any]) -> bool:
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        inner = space.spaces.values() if isinstance(space, spaces.Dict) else space.spaces
        return all(_fits_in_bytes(each) for each in inner)
    return not isinstance(space, spaces.Box) or space.dtype in (np.uint8, np.bool_)


def _unbatch(space: spaces.Space[Any], batch: Any) -> list[Any]:
    if isinstance(space, spaces.Dict):
        parts = {key: _unbatch(inner, batch[key]) for key, inner in space.spaces.items()}
        return [dict(zip(parts, values, strict=True)) for values in zip(*parts.values(), strict=True)]
    if isinstance(space, spaces.Tuple):
        columns = [_unbatch(inner, part) for inner, part in zip(space.spaces, batch, strict=True)]
        return list(zip(*columns, strict=True))
    return list(np.asarray(batch))
