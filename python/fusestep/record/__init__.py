"""What a run did, step by step: loss, learning rate, batch size, norms, and values of one's own."""

from .record import Record

__all__ = ["Record"]
