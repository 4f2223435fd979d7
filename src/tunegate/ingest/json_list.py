"""Cut one JSON list of any length into its elements, holding one element at a time.

Only texts and brackets are told apart here; each element is decoded for itself, so that a bad one does not spoil the others.
"""

import re
from collections.abc import Iterator

from tunegate.ingest.unpack import Broken

READ_BYTES = 2**20
# Possessive (++, *+), so that nothing is ever scanned twice.
TEXT_REST = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
INSIDE = re.compile(rb'(?:[^"\[\]{}]++|"(?:[^"\\]++|\\.)*+")*+', re.DOTALL)
BETWEEN = re.compile(rb'(?:[^",\[\]{}]++|"(?:[^"\\]++|\\.)*+")*+', re.DOTALL)
QUOTE, COMMA, END, OPEN, CLOSE = b'"'[0], b","[0], b"]"[0], b"[{", b"]}"


def split_list(file, max_bytes: int, shown_bytes: int) -> Iterator[tuple[bytes, bool]]:
    """Give the text of each element, and whether that is all of it: of one over `max_bytes` only its beginning is given.

    Args:
        file: binary, at the list's opening bracket.

    Raises:
        Broken: the list does not end, or ends too early.
    """
    file.read(1)
    data, start, place = b"", 0, 0  # the element begins at `start`; up to `place` it has been looked at
    depth, in_text, beginning, elements = 0, False, b"", 0
    while True:
        place, depth, in_text, ends = _advance(data, place, depth, in_text)
        if not ends:
            if place - start > max_bytes:
                beginning = beginning or data[start : start + shown_bytes]
                start = place
            piece = file.read1(READ_BYTES)  # not read: when the file breaks off, that forgets what it had read so far
            if not piece:
                raise Broken("its list does not end")
            data, place, start = data[start:] + piece, place - start, 0
            continue
        element, closed = data[start:place].strip(), data[place] != COMMA
        if beginning or place - start > max_bytes:
            yield beginning or element[:shown_bytes], False
        elif element or elements or not closed:
            yield element, True
        elements, beginning = elements + 1, b""
        start = place = place + 1
        if closed:
            if data[place - 1] != END or data[place:].strip() or any(piece.strip() for piece in iter(lambda: file.read1(READ_BYTES), b"")):
                raise Broken("its list ends before the file does")
            return


def _advance(data: bytes, place: int, depth: int, in_text: bool) -> tuple[int, int, bool, bool]:
    """Look on from `place` to the comma or bracket that ends the element, or to the end of `data`."""
    while True:
        if in_text:
            place = TEXT_REST.match(data, place).end()
            if place == len(data) or data[place] != QUOTE:  # the last byte may be the first half of an escape
                return place, depth, True, False
            in_text, place = False, place + 1
        place = (INSIDE if depth else BETWEEN).match(data, place).end()
        if place == len(data):
            return place, depth, False, False
        byte = data[place]
        if byte == QUOTE:
            in_text = True
        elif not depth and (byte == COMMA or byte in CLOSE):
            return place, depth, False, True
        else:
            depth += 1 if byte in OPEN else -1
        place += 1
