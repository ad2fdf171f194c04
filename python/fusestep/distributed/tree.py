"""The tree along which the gradients of a batch's leaves are added: one for a number of leaves.

Node (level, position) covers the leaves from ``position * 2^level`` on, 2^level of them or those
that there are. Its value is that of its left half plus that of its right half, or of one half where
the other has no samples. So sums have the same bits however leaves are spread over ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

ADD = -1  # in additions: the sum of the two before it


class Node(NamedTuple):
    """A part of the tree."""

    level: int
    position: int

    def span(self, leaves: int) -> tuple[int, int]:
        """The leaves that it covers, from the first to before the last."""
        begin = self.position << self.level
        return begin, min(begin + (1 << self.level), leaves)


def pieces(begin: int, end: int, leaves: int) -> list[Node]:
    """The largest nodes that lie within some leaves, from left to right."""
    found = []
    while begin < end:
        node = Node(0, begin)
        while True:
            above = Node(node.level + 1, node.position >> 1)
            first, last = above.span(leaves)
            if first != begin or last > end or 1 << node.level >= leaves:
                break
            node = above
        found.append(node)
        begin = node.span(leaves)[1]
    return found


def additions(nodes: Sequence[Node], leaves: int) -> list[int]:
    """The sum over the tree in postfix: places in ``nodes``, and ADD.

    ``nodes`` are those with a value, from left to right; what none of them covers has no samples.
    """
    place = {node.span(leaves): k for k, node in enumerate(nodes)}
    found: list[int] = []

    def visit(level: int, position: int) -> bool:
        """Whether the node has a value."""
        span = Node(level, position).span(leaves)
        if span in place:
            found.append(place[span])
            return True
        if level == 0 or span[0] >= leaves:
            return False
        left, right = visit(level - 1, 2 * position), visit(level - 1, 2 * position + 1)
        if left and right:
            found.append(ADD)
        return left or right

    visit((leaves - 1).bit_length(), 0)
    return found


class Sums:
    """Adds a rank's leaves as they come, from left to right, in the fewest buffers.

    Buffers are numbers: ``new()`` gives one, ``add(source, target)`` adds a buffer to another.
    """

    def __init__(
        self,
        begin: int,
        end: int,
        leaves: int,
        new: Callable[[], int],
        add: Callable[[int, int], None],
    ) -> None:
        self._begin, self._end, self._leaves = begin, end, leaves
        self._new, self._add = new, add
        self._free: list[int] = []
        self.clear()

    def clear(self) -> None:
        """Begins with the first leaf again."""
        stack = getattr(self, "_stack", [])
        self._free += [buffer for _, buffer in stack if buffer is not None]
        self._stack: list[tuple[Node, int | None]] = []
        self.next = self._begin

    def sibling(self) -> int | None:
        """The buffer into which the next leaf may be added at once; None where it needs its own."""
        if self._stack and self._stack[-1][0] == Node(0, self.next - 1) and self.next % 2 == 1:
            return self._stack[-1][1]
        return None

    def take(self) -> int:
        """A buffer for the next leaf."""
        return self._free.pop() if self._free else self._new()

    def give_back(self, buffer: int) -> None:
        """A buffer that was taken and not put."""
        self._free.append(buffer)

    def put(self, buffer: int | None) -> None:
        """The next leaf is in a buffer, its sibling's perhaps; None: it has no samples."""
        node = Node(0, self.next)
        if buffer is not None and buffer == self.sibling():
            self._stack.pop()
            node = Node(1, node.position >> 1)
        self.next += 1
        self._push(node, buffer)

    def _push(self, node: Node, buffer: int | None) -> None:
        node = self._lifted(node)
        while self._stack:
            left, other = self._stack[-1]
            if left.level != node.level or left.position + 1 != node.position or left.position % 2:
                break
            self._stack.pop()
            if buffer is not None and other is not None:
                self._add(buffer, other)
                self._free.append(buffer)
                buffer = other
            buffer = other if buffer is None else buffer
            node = self._lifted(Node(node.level + 1, node.position >> 1))
        self._stack.append((node, buffer))

    def _lifted(self, node: Node) -> Node:
        """The highest node with this value: a left half without a right one is the whole."""
        while (
            node.position % 2 == 0
            and node.position > 0
            and node.span(self._leaves)[1] == self._leaves
        ):
            node = Node(node.level + 1, node.position >> 1)
        return node

    def finish(self) -> list[int | None]:
        """The buffers of the rank's pieces, in order; None where there are no samples."""
        buffers = [buffer for _, buffer in self._stack]
        self.clear()
        return buffers
