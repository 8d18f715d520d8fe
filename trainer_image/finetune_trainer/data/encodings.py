"""Which encoding a text file has: by its first bytes, or as a guess to tell the user.

Used by ``source.py``. Only marks decide; a guess never does, since a wrong one would train on garbled letters and still
end well. So a file that is not UTF-8 is named as what it seems to be, and read once ``dataset.encoding`` says so.
"""

from __future__ import annotations

from typing import BinaryIO, Final

from finetune_api.dataset import Encoding
from finetune_trainer.data.opened import numbered_lines

__all__ = ["guess", "is_utf8", "marked"]

_MARKS: Final[tuple[tuple[bytes, Encoding], ...]] = (
    (b"\xff\xfe\x00\x00", "UTF-32"),
    (b"\x00\x00\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)
_LOOKED_AT: Final = 16 * 2**20
_SAMPLE: Final = 2**17
_ENOUGH: Final = 8
"""Bytes beyond ASCII without which nothing is said."""
_CANDIDATES: Final[dict[str, Encoding]] = {
    "cp1252": "Windows-1252",
    "cp1251": "Windows-1251",
    "cp1250": "Windows-1250",
    "koi8_r": "KOI8-R",
    "shift_jis": "Shift_JIS",
    "euc_jp": "EUC-JP",
    "euc_kr": "EUC-KR",
    "gb18030": "GB18030",
    "big5": "Big5",
}


def marked(head: bytes) -> Encoding | None:
    """Return the encoding that a byte order mark says; None without one, and for that of UTF-8, which is read anyway.

    Text in UTF-16 without a mark is told by its zeros: in front of, or behind, the letters that it begins with.
    """
    known = next((encoding for mark, encoding in _MARKS if head.startswith(mark)), None)
    if known is None and len(head) >= 4 and b"\0" in head[:4]:
        zeros = [byte == 0 for byte in head[:4]]
        by_zeros: dict[tuple[bool, ...], Encoding] = {
            (False, True, False, True): "UTF-16LE",
            (True, False, True, False): "UTF-16BE",
        }
        return by_zeros.get(tuple(zeros))
    return known


def is_utf8(file: BinaryIO) -> bool:
    """Whether the beginning of a file is UTF-8 and has letters beyond ASCII, as no other encoding would."""
    seen = False
    looked_at = 0
    for _, line in numbered_lines(file):
        if line is None:
            continue
        try:
            line.decode()
        except UnicodeDecodeError:
            return False
        seen = seen or not line.isascii()
        looked_at += len(line)
        if looked_at > _LOOKED_AT:
            break
    return seen


def guess(file: BinaryIO) -> Encoding | None:
    """Return what a file that should be UTF-8 seems to be instead; None where it is UTF-8, as far as was looked."""
    sample: list[bytes] = []
    looked_at = held = 0
    for _, line in numbered_lines(file):
        if line is None:
            continue
        looked_at += len(line)
        if not line.isascii() and not _decodes(line, "utf-8"):
            sample.append(line)
            held += len(line)
        if looked_at > _LOOKED_AT or held > _SAMPLE:
            break
    return _best(b"".join(sample)) if sample else None


def _best(sample: bytes) -> Encoding | None:
    from charset_normalizer import from_bytes  # noqa: PLC0415 - rarely needed

    if sum(byte >= 0x80 for byte in sample) < _ENOUGH:
        return None
    matches = list(from_bytes(sample, cp_isolation=list(_CANDIDATES)))
    if not matches:
        # Short texts between many marks look like noise to it.
        return "Windows-1252" if _western(sample) else None
    # Western letters fit the central European code page as well, which is the rarer one.
    western = any(m.encoding == "cp1252" and m.chaos <= matches[0].chaos for m in matches)
    return "Windows-1252" if western else _CANDIDATES[matches[0].encoding]


def _western(sample: bytes) -> bool:
    """Whether nearly all bytes beyond ASCII are letters of western Europe, and what Windows has beside them."""
    if not _decodes(sample, "cp1252"):
        return False
    high = [char for char in sample.decode("cp1252") if not char.isascii()]
    return sum(char.isalpha() or char in "€“”‘’–—…«»°§£" for char in high) >= 0.9 * len(high)


def _decodes(text: bytes, encoding: str) -> bool:
    try:
        text.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True
