"""A loop that may be killed at any moment, and goes on where it was."""

from .run import Run

__all__ = ["Run"]
