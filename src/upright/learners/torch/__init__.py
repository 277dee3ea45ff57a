"""The reference engine, in PyTorch: nothing imports it before it is chosen."""

from upright.errors import MissingExtra

try:
    import torch  # noqa: F401
except ModuleNotFoundError as error:
    raise MissingExtra("PyTorch is not installed: pip install 'upright[torch]'") from error
