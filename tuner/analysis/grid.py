"""A table of texts that drops what matters least until it fits, for a terminal or as Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rich.console import Console
from rich.table import Table

ESSENTIAL = 0
"""The rank of columns that are never left out."""
_NOTE_WIDTH = 24
"""A column of sentences is broken into lines, and asks for no more than this."""


@dataclass(frozen=True, slots=True)
class Column:
    """A heading in words, and a cell for each row; of columns above rank 0 the highest are left out first."""

    heading: str
    cells: Sequence[str]
    rank: int = ESSENTIAL
    kind: Literal["number", "name", "prose"] = "number"

    @property
    def prose(self) -> bool:
        """Whether the cells are sentences, which may be broken into lines."""
        return self.kind == "prose"

    @property
    def width(self) -> int:
        """The characters that it needs; a heading is broken between words."""
        needed = max(map(len, (*self.heading.split(), *self.cells)), default=0)
        return min(needed, _NOTE_WIDTH) if self.prose else needed


@dataclass(frozen=True, slots=True)
class Grid:
    """Columns under a title, over a caption."""

    title: str
    columns: Sequence[Column]
    caption: str = ""

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """The cells row by row."""
        return list(zip(*(column.cells for column in self.columns), strict=True))

    def fitted(self, width: int) -> "Grid":
        """Return the grid without the columns that do not fit into so many characters; the caption names them."""
        columns, dropped = list(self.columns), list[str]()
        while sum(column.width + 1 for column in columns) - 1 > width:
            least = max(reversed(columns), key=lambda column: column.rank, default=None)
            if least is None or least.rank == ESSENTIAL:
                break
            columns.remove(least)
            dropped.insert(0, least.heading)
        if not dropped:
            return self
        left_out = f"no room for {', '.join(dropped)} (--json has all)"
        return replace(self, columns=columns, caption="; ".join(filter(None, (self.caption, left_out))))

    def as_table(self, width: int) -> Table:
        """Return the columns for a terminal of this width; headings are broken only where that takes it."""
        left = width + 1 - sum(column.width + 1 for column in self.columns)
        view = Table(box=None, pad_edge=False, collapse_padding=True, header_style="bold")
        for column in self.columns:
            wider = max(0, len(column.heading) - column.width)
            taken = wider if wider <= left else 0
            left -= taken
            justify: Literal["left", "right"] = "right" if column.kind == "number" else "left"
            view.add_column(column.heading, justify=justify, width=None if column.prose else column.width + taken)
        for cells in self.rows:
            view.add_row(*cells)
        return view

    def show(self, console: Console) -> None:
        """Print as much of the grid as the console is wide for."""
        fitted = self.fitted(console.width)
        if fitted.title:
            console.print(fitted.title, style="italic", highlight=False)
        console.print(fitted.as_table(console.width))
        if fitted.caption:
            console.print(fitted.caption, style="dim italic", highlight=False)

    def as_markdown(self) -> str:
        """Return the grid as a Markdown table, title and caption as paragraphs around it."""
        rows = [[column.heading for column in self.columns]]
        rows.append(["---:" if column.kind == "number" else "---" for column in self.columns])
        rows += [list(cells) for cells in self.rows]
        lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
        parts = (f"**{self.title}**" if self.title else "", "\n".join(lines), self.caption.replace("*", "\\*"))
        return "\n\n".join(filter(None, parts)) + "\n"
