"""Where a stream of rows is cut into blocks: where the content says so, so that rows inserted or removed somewhere
change the blocks around them and no others.

The rule is that of content-defined chunking (LBFS: Muthitacharoen et al., SOSP 2001; FastCDC: Xia et al., USENIX ATC
2016), on whole rows. With `spacing` a quarter of the greatest size and `least` a sixteenth:

- a row whose hash is a multiple of `spacing` begins a block, if the block before it has its least size;
- an anchor always begins one: a row whose hash is a multiple of twice the spacing, where none of the `least` rows
  before it is one. That needs no more than those rows to tell, so a worker that enters a file anywhere finds the next
  anchor without knowing what came before. Splits of line files begin and end there (`transforms.read`);
- a block of the greatest size is closed.

A text that fills half the corpus and happens to hash to a multiple makes blocks of least size, never of one row.
"""

import dataclasses
import zlib

BLOCK_TEXT_BYTES = 64 << 20
"""A block is closed at this much text, however few its rows: a worker holds a block whole."""


def row_hash(text: str) -> int:
    """32 bits of a row's text. Its id is left out: an id that tells where the row stands would move with it."""
    return zlib.crc32(text.encode("utf-8", "surrogatepass"))


@dataclasses.dataclass
class Cutter:
    """Tells, row by row, where blocks begin. Blocks have `rows_per_part` rows at most, about a third on average."""

    rows_per_part: int

    def __post_init__(self) -> None:
        self.least = max(1, self.rows_per_part // 16)
        self.spacing = max(1, self.rows_per_part // 4)
        self._rows = self._text_bytes = 0  # of the open block
        self._since_candidate: int | None = None  # rows since the last one that could have been an anchor

    def begins_block(self, hashed: int, text_bytes: int) -> bool:
        """Takes in the next row; whether it begins a block (never the first row: that needs no cut)."""
        anchor = self._is_anchor(hashed)
        full = self._rows >= self.rows_per_part or self._text_bytes >= BLOCK_TEXT_BYTES
        cut = bool(self._rows) and (anchor or full or (self._rows >= self.least and hashed % self.spacing == 0))
        if cut:
            self._rows = self._text_bytes = 0
        self._rows += 1
        self._text_bytes += text_bytes
        return cut

    def end_of_file(self) -> bool:
        """In a pack, whether to close the block at a file's end, so that it does not change with the next file."""
        cut = self._rows >= self.least
        if cut:
            self._rows = self._text_bytes = 0
        return cut

    def _is_anchor(self, hashed: int) -> bool:
        candidate = hashed % (2 * self.spacing) == 0
        alone = self._since_candidate is None or self._since_candidate >= self.least
        if candidate:
            self._since_candidate = 0
        elif self._since_candidate is not None:
            self._since_candidate += 1
        return candidate and alone


class AnchorFinder:
    """Finds the first row that any worker knows for an anchor, entering the stream anywhere."""

    def __init__(self, rows_per_part: int) -> None:
        self._cutter = Cutter(rows_per_part)
        self._seen = 0

    def is_anchor(self, hashed: int) -> bool:
        anchor = self._cutter._is_anchor(hashed)
        self._seen += 1
        return anchor and self._seen > self._cutter.least
