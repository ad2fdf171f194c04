"""Data iteration: every sample once in an epoch, whatever the batch size does."""

from .columns import Float32, to_float32
from .loader import Batch, Loader
from .order import ORDERS

__all__ = ["ORDERS", "Batch", "Float32", "Loader", "to_float32"]
