"""From an observation of a space to its values: flat, as `gymnasium.spaces.flatten` orders them, or as an image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import numpy as np
from gymnasium import spaces

from upright.errors import SpaceError

SMALLEST_IMAGE = 36  # pixels a side, the least that Nature's convolutions take
MOST_CHANNELS = 16  # of what is recognised as an image by its shape alone


def image_layout(
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


def reader(space: spaces.Space[Any], name: str) -> Callable[[Any], np.ndarray]:
    """A function from an observation of the space to its values: flat, except a Box of images, which keeps its shape.

    Raises SpaceError for a space that has no such form; the function raises ValueError for a misfit.
    """
    if isinstance(space, spaces.Box):
        keep_shape = image_layout(space) is not None
        dtype, shape = space.dtype, space.shape
        # What is stored as a byte has to be one; all else becomes float32, for which other widths will do.
        casting: Literal["safe", "same_kind"] = "safe" if dtype.itemsize == 1 else "same_kind"

        def read_box(value: Any) -> np.ndarray:
            array = _array(value, name)
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
            array = _array(value, name)
            if array.shape != space.shape or array.dtype.kind not in "biu":
                raise ValueError(f"{name} is {value!r}, which is not a member of {space}")
            index = array.reshape(-1).astype(np.int64)
            if ((index < start) | (index >= start + sizes)).any():
                raise ValueError(f"{name} is {value!r}, which is not a member of {space}")
            one_hot = np.zeros(length, np.uint8)
            one_hot[index + offsets] = 1
            return one_hot

        return read_indices
    if isinstance(space, spaces.MultiBinary):
        shape = space.shape

        def read_bits(value: Any) -> np.ndarray:
            array = _array(value, name)
            if array.shape != shape or array.dtype.kind not in "biu" or ((array != 0) & (array != 1)).any():
                raise ValueError(f"{name} is not a member of {space}")
            return array.reshape(-1).astype(np.uint8)

        return read_bits
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        keyed: Any = space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)
        readers = {key: reader(inner, f"{name}[{key!r}]") for key, inner in keyed}
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


def leaves(space: spaces.Space[Any]) -> Iterator[spaces.Space[Any]]:
    """The spaces without parts that a space is made of, in the order in which their values follow each other."""
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        for inner in space.spaces.values() if isinstance(space, spaces.Dict) else space.spaces:
            yield from leaves(inner)
    else:
        yield space


def structure(space: spaces.Space[Any]) -> Any:
    """The shapes of a space's values, nested as it is: a dict or a tuple of shapes, which are lists of sides."""
    if isinstance(space, spaces.Dict):
        return {key: structure(inner) for key, inner in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(structure(inner) for inner in space.spaces)
    return list(space.shape or ()) if isinstance(space, spaces.Box) else [spaces.flatdim(space)]


def has_form_of_image(space: spaces.Space[Any]) -> bool:
    """True if a Box has the shape of an image, or of a stack of images, whatever its numbers are."""
    if not isinstance(space, spaces.Box) or len(space.shape) not in (2, 3, 4):
        return False
    shape = space.shape[-3:]  # of one frame, where it is a stack of them
    channels = min(shape[0], shape[-1]) if len(shape) == 3 else 1
    return sorted(shape)[-2] >= SMALLEST_IMAGE and channels <= MOST_CHANNELS


def _array(value: Any, name: str) -> np.ndarray:
    try:
        return np.asarray(value)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{name} is a {type(value).__name__} that is not an array of numbers") from error
