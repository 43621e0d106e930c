"""Parts of event sets: ranges of the chunks of a card."""

from __future__ import annotations

from dataclasses import dataclass

from . import generate


@dataclass(frozen=True)
class Part:
    """``chunks`` chunks of a card from number ``first``; ``meaning``: what a benchmark does with them.

    ``take``: only so many events of them, where that is not 0.
    """

    name: str
    card: str
    first: int
    chunks: int
    meaning: str
    take: int = 0

    @classmethod
    def of(cls, card: str, events: int, meaning: str) -> Part:
        """The first ``events`` events of a card, named like it."""
        return cls(card, card, 0, -(-events // generate.CHUNK), meaning, events)

    @property
    def numbers(self) -> range:
        """The numbers of its chunks."""
        return range(self.first, self.first + self.chunks)

    @property
    def events(self) -> int:
        """Selected events; hard processes of a card that showers them again."""
        return self.take or self.chunks * generate.CHUNK
