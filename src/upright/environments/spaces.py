"""The encoding of observations of Gymnasium's spaces, as flat vectors or images.

Vectors are flattened as `gymnasium.spaces.flatten` does: a Discrete becomes a one-hot, a Dict is read in
its own order. Images (uint8, at least 36×36, the least that Nature's convolutions take) become
channels × height × width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from upright.environments.readers import has_form_of_image, image_layout, leaves, reader, structure
from upright.errors import SpaceError

SMALL = 0.1  # what an entry's bound has to be below for it to be stretched
LARGEST_INTEGER = 2**24  # below which float32 holds every integer; bounds from here on are no scale
LARGEST_BYTE = 255
LARGEST_VECTOR = 2**28  # entries


class Scaling(NamedTuple):
    """What is done to the D entries of a vector: y = (x − offset) · factor.

    offset, factor `[D]`: 0 and 1 for what stays as it is
    """

    offset: np.ndarray
    factor: np.ndarray


class Observations:
    """The encoding of observations of one space as arrays of one shape and dtype.

    space: the environment's own, without the entries of a Dict that nothing reads
    seen: the part of it that the network sees, without an entry for the mask
    shape, dtype: of one encoded observation; a vector `[D]` or an image `[C, H, W]`
    is_image: whether the convolutional torso reads it
    scale `[D]`: factors that the learner applies to a vector of bytes; None where all are 1, and for images
    largest: what the learner divides an image by: 255, or with `scale_integers` the largest pixel of its space
    structure: the shapes of the parts of a Dict or Tuple, in the order of the vector; None for one without parts

    Vectors made of nothing but one-hots, bits and bytes are stored as uint8, all others as float32.
    stretch: divide each entry whose bounds lie within ±0.1 by the larger of them, so that it reaches ±1: beside entries
    of about 1, a network would learn of MountainCar's velocity, at most 0.07, last of all
    scale_integers: bring each bounded integer to [0, 1] by its bounds, low → 0 and high → 1
    keys: the entries of a Dict that are seen; none given: all · mask_key: the entry that is an action mask, not seen
    """

    def __init__(
        self,
        space: spaces.Space[Any],
        stretch: bool = False,
        scale_integers: bool = False,
        keys: tuple[str, ...] = (),
        mask_key: str | None = None,
    ) -> None:
        self.mask_key = mask_key
        self._keys = _chosen_keys(space, keys, mask_key)
        self.space = space if self._keys is None else _only(space, {*self._keys, mask_key})
        self.seen = seen = _seen_part(space, self._keys)
        # Where its first part without parts lies, and how many axes that has, tell one observation from a batch.
        self._first: list[Any] = []
        part: Any = seen
        while isinstance(part, (spaces.Dict, spaces.Tuple)) and part.spaces:
            self._first.append(next(iter(part.spaces)) if isinstance(part, spaces.Dict) else 0)
            part = part[self._first[-1]]
        self._dimensions = len(part.shape or ())
        layout = image_layout(seen)
        self.is_image = layout is not None
        self.scale: tuple[float, ...] | None = None
        self.largest = 255.0
        self.structure = structure(seen) if isinstance(seen, (spaces.Dict, spaces.Tuple)) else None
        self._read = reader(seen, "the observation")
        self._scaling: Scaling | None = None
        self._may_overflow = False
        if layout is not None:
            self.shape: tuple[int, ...] = layout[0]
            self._arrange = layout[1]
            self.dtype: np.dtype[Any] = np.dtype(np.uint8)
            assert isinstance(seen, spaces.Box)
            if scale_integers and seen.high.max() > 0:
                self.largest = float(seen.high.max())
            return
        size = spaces.flatdim(seen)
        if size == 0:
            raise SpaceError(
                f"The observation space {space} has no entries: an agent that sees nothing cannot learn; "
                "give the environment an observation."
            )
        if size > LARGEST_VECTOR:
            raise SpaceError(
                f"The observation has {size:,} entries, more than a network can be given: make it smaller with a "
                "wrapper."
            )
        self.shape = (size,)
        self.dtype = np.dtype(
            np.uint8 if all(_fits_in_bytes(leaf, scale_integers) for leaf in leaves(seen)) else np.float32
        )
        scaling = _scaling(seen, stretch and self.dtype == np.float32, scale_integers)
        if self.dtype == np.uint8:
            boxes = [leaf for leaf in leaves(seen) if isinstance(leaf, spaces.Box)]
            self._may_overflow = bool(scaling.offset.any()) or any(
                box.dtype not in (np.uint8, np.bool_) for box in boxes
            )
            if (scaling.factor != 1).any():
                self.scale = tuple(scaling.factor.tolist())
            scaling = scaling._replace(factor=np.ones_like(scaling.factor))
        if scaling.offset.any() or (scaling.factor != 1).any():
            self._scaling = scaling

    def encode(self, observation: Any) -> np.ndarray:
        """One observation as a fresh array of `shape` and `dtype`.

        Raises ValueError, with a text that continues "the environment's observation …", when it does not
        belong to the space by structure, shape, dtype or index, or is not finite.
        """
        return self._encode(self._pick(observation))

    def _encode(self, seen: Any) -> np.ndarray:
        value = self._read(seen)
        if self.is_image:
            return np.array(self._arrange(value), self.dtype, order="C")
        if self.dtype == np.uint8:
            return self._as_bytes(value)
        encoded = value.astype(self.dtype)
        if self._scaling is not None:
            encoded -= self._scaling.offset
            encoded *= self._scaling.factor
        # To count is the quickest way to ask whether all are.
        if np.count_nonzero(np.isfinite(encoded)) != encoded.size:
            index = int(np.flatnonzero(~np.isfinite(encoded))[0])
            raise ValueError(f"the observation is {encoded[index]} at entry {index} of {encoded.size}")
        return encoded

    def _as_bytes(self, value: np.ndarray) -> np.ndarray:
        if self._scaling is not None:
            value = value - self._scaling.offset
        if self._may_overflow and ((value < 0) | (value > LARGEST_BYTE)).any():
            index = int(np.flatnonzero((value < 0) | (value > LARGEST_BYTE))[0])
            raise ValueError(f"the observation is out of its space's bounds at entry {index} of {value.size}")
        return value.astype(np.uint8)

    def encode_any(self, observation: Any) -> tuple[np.ndarray, bool]:
        """One observation or a batch of them, as Gymnasium's and SB3's vectors batch: `([B, *shape], single)`."""
        seen = self._pick(observation)
        if self.is_single(seen):
            return self._encode(seen)[None], True
        items = _unbatch(self.seen, seen)
        if not items:
            return np.empty((0, *self.shape), self.dtype), False
        return np.stack([self._encode(item) for item in items]), False

    def is_single(self, seen: Any) -> bool:
        """True if this is one observation's seen part rather than a batch."""
        try:
            for key in self._first:
                seen = seen[key]
            return np.ndim(seen) <= self._dimensions
        except (KeyError, IndexError, TypeError, ValueError):
            return True  # encode says what is wrong with it

    def mask(self, observation: Any) -> Any:
        """The action mask within an observation `[A]`, or a batch `[B, A]`; None for a space without one."""
        return None if self.mask_key is None else _entry(observation, self.mask_key)

    def encodes_as(self, other: Observations) -> bool:
        """True if another encoding gives the same numbers for each observation."""
        mine, others = ((one.scale, one.largest, one.dtype, one._keys) for one in (self, other))
        same = self._scaling is other._scaling or (
            self._scaling is not None
            and other._scaling is not None
            and all(map(np.array_equal, self._scaling, other._scaling))
        )
        return mine == others and same

    def notices(self) -> Iterator[str]:
        """What its user should know of how observations reach the network."""
        integers = [leaf for leaf in leaves(self.seen) if isinstance(leaf, spaces.Box) and leaf.dtype.kind in "iu"]
        scaled = [leaf for leaf in integers if (_integer_scaling(leaf).factor != 1).any()]
        if scaled and (self.scale is not None or self._scaling is not None):
            low, high = min(leaf.low.min() for leaf in scaled), max(leaf.high.max() for leaf in scaled)
            yield (
                f"The observation's integers are scaled to 0 … 1 by the space's bounds, {low:,} to {high:,} "
                "(--no-scale-integers leaves them as they are)."
            )
        if self.is_image:
            if self.largest != 255:
                yield f"The image's pixels are divided by {self.largest:g}, the largest of their space, to 0 … 1."
            return
        size = f"a vector of {self.shape[0]:,} numbers"
        if isinstance(self.seen, (spaces.Dict, spaces.Tuple)):
            keyed = self.seen.spaces.items() if isinstance(self.seen, spaces.Dict) else enumerate(self.seen.spaces)
            for key, inner in keyed:
                if any(map(has_form_of_image, leaves(inner))):
                    alone = f"--observation-keys {key} (observation_keys=({key!r},) in Python) leaves the image alone, "
                    yield (
                        f"observation[{key!r}] looks like an image, but within a {type(self.seen).__name__} it becomes "
                        f"part of {size}: "
                        + (alone if isinstance(key, str) else "return the image alone, ")
                        + "which convolutions read if it is of uint8; or give a network of your own."
                    )
        elif has_form_of_image(self.seen):
            yield (
                f"The observation looks like an image, but it is of {self.seen.dtype}, so it becomes {size}: let the "
                "environment return bytes, a Box(0, 255, …, uint8), which convolutions read."
            )

    def _pick(self, observation: Any) -> Any:
        """The part of an observation, or of a batch, that the network sees."""
        if self._keys is None:
            return observation
        if len(self._keys) == 1:
            return _entry(observation, self._keys[0])
        return {key: _entry(observation, key) for key in self._keys}


def _unbatch(space: spaces.Space[Any], batch: Any) -> list[Any]:
    if isinstance(space, spaces.Dict):
        parts = {key: _unbatch(inner, batch[key]) for key, inner in space.spaces.items()}
        return [dict(zip(parts, values, strict=True)) for values in zip(*parts.values(), strict=True)]
    if isinstance(space, spaces.Tuple):
        columns = [_unbatch(inner, part) for inner, part in zip(space.spaces, batch, strict=True)]
        return list(zip(*columns, strict=True))
    return list(np.asarray(batch))


def _entry(observation: Any, key: str) -> Any:
    if not isinstance(observation, Mapping):
        raise ValueError(f"the observation is a {type(observation).__name__}, not a dict with the key {key!r}")
    if key not in observation:
        raise ValueError(f"the observation has no key {key!r}")
    return observation[key]


def _chosen_keys(space: spaces.Space[Any], keys: tuple[str, ...], mask_key: str | None) -> tuple[str, ...] | None:
    """The entries of a Dict that are seen, in its own order; None where the whole observation is seen.

    Raises SpaceError for keys that it does not have, and for entries that nothing can be made of.
    """
    if not isinstance(space, spaces.Dict):
        if keys:
            raise SpaceError(
                f"observation_keys chooses entries of a Dict, but the observation space is {space}; leave it out."
            )
        return None
    names = [key for key in space.spaces if key != mask_key]
    for key in keys:
        if key not in names:
            raise SpaceError(f"observation_keys names {key!r}, but the observation has {', '.join(map(str, names))}.")
    chosen = tuple(key for key in names if not keys or key in keys)
    unreadable = [key for key in chosen if not _is_readable(space[key])]
    others = [str(key) for key in chosen if key not in unreadable]
    if unreadable and others:
        python = ", ".join(map(repr, others)) + ("," if len(others) == 1 else "")
        raise SpaceError(
            f"observation[{unreadable[0]!r}] is {space[unreadable[0]]}, which has no fixed size for a network: choose "
            f"the others with --observation-keys {' '.join(others)} (observation_keys=({python}) in Python)."
        )
    return chosen if keys or mask_key is not None else None


def _is_readable(space: spaces.Space[Any]) -> bool:
    try:
        reader(space, "it")
    except SpaceError:
        return False
    return True


def _only(space: spaces.Space[Any], keys: set[str | None]) -> spaces.Space[Any]:
    """A Dict with these of its entries."""
    assert isinstance(space, spaces.Dict)
    return spaces.Dict([(key, inner) for key, inner in space.spaces.items() if key in keys])


def _seen_part(space: spaces.Space[Any], keys: tuple[str, ...] | None) -> spaces.Space[Any]:
    if keys is None:
        return space
    assert isinstance(space, spaces.Dict)
    return space[keys[0]] if len(keys) == 1 else _only(space, {*keys})


def _fits_in_bytes(leaf: spaces.Space[Any], scale_integers: bool) -> bool:
    if not isinstance(leaf, spaces.Box) or leaf.dtype in (np.uint8, np.bool_):
        return True
    if not scale_integers or leaf.dtype.kind not in "iu" or not leaf.shape:
        return False
    low, high = leaf.low.astype(np.float64), leaf.high.astype(np.float64)
    return bool(_is_bounded(low, high).all() and (high - low).max(initial=0) <= LARGEST_BYTE)


def _is_bounded(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    bounded: np.ndarray = np.maximum(np.abs(low), np.abs(high)) < LARGEST_INTEGER
    return bounded


def _scaling(space: spaces.Space[Any], stretch: bool, scale_integers: bool) -> Scaling:
    """The scaling of a vector's entries by the bounds of the spaces without parts that it is made of."""
    parts = []
    for leaf in leaves(space):
        size = spaces.flatdim(leaf)
        part = Scaling(np.zeros(size, np.float32), np.ones(size, np.float32))
        if isinstance(leaf, spaces.Box) and leaf.dtype.kind in "iu" and scale_integers:
            part = _integer_scaling(leaf)
        elif isinstance(leaf, spaces.Box) and leaf.dtype.kind == "f" and stretch:
            bound = np.maximum(np.abs(leaf.low), np.abs(leaf.high)).astype(np.float32).reshape(-1)
            small = (bound > 0) & (bound < SMALL)
            part.factor[small] = 1 / bound[small]
        parts.append(part)
    return Scaling(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _integer_scaling(box: spaces.Box) -> Scaling:
    """(x − low) / (high − low) of each entry whose bounds are near enough to say what is large."""
    low, high = box.low.astype(np.float64).reshape(-1), box.high.astype(np.float64).reshape(-1)
    bounded = _is_bounded(low, high)
    span = np.where(bounded & (high > low), high - low, 1)
    return Scaling(np.where(bounded, low, 0).astype(np.float32), (1 / span).astype(np.float32))
