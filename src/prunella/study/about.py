"""What every measure tells about itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class About:
    """A measure in words.

    Attributes:
        meaning: What it means, in a sentence or two.
        source: Where it comes from.
        doubts: What is known to be doubtful about it.
    """

    meaning: str
    source: str
    doubts: str

    @property
    def text(self) -> str:
        """Paragraphs for a page."""
        return f"{self.meaning}\n\nSource: {self.source}\n\nDoubts: {self.doubts}"
