"""Opens a file of rows as lines of UTF-8, whatever it is packed in and however its text is encoded.

The lowest module of the package: above it a row is a piece of UTF-8. Unpacking and decoding are streams, so that the
memory does not grow with the file; what was cut off on its way here is an error, never a shorter dataset.
"""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final, Literal

from finetune_api.dataset import Encoding
from finetune_api.reasons import Reason
from finetune_trainer.errors import StageError

__all__ = [
    "MAX_RECORD_BYTES",
    "UTF8_BOM",
    "Packing",
    "numbered_lines",
    "opened",
    "packing_of",
    "text_lines",
    "unpacked",
]

Packing = Literal["gzip", "zstd"]

MAX_RECORD_BYTES: Final = 16 * 2**20
"""A longer line is a bad row; without a bound a file without line ends would fill the memory."""
UTF8_BOM: Final = b"\xef\xbb\xbf"

_MAGIC: Final[tuple[tuple[bytes, Packing], ...]] = ((b"\x1f\x8b", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"))
_CHUNK: Final = 2**18


def packing_of(path: Path) -> Packing | None:
    """Return what a file is packed in, by its first bytes; its ending may lie."""
    with path.open("rb") as file:
        head = file.read(4)
    return next((packing for magic, packing in _MAGIC if head.startswith(magic)), None)


@contextmanager
def unpacked(path: Path, packing: Packing | None, name: str) -> Iterator[BinaryIO]:
    """Open a file for reading its unpacked bytes from their beginning.

    Raises
    ------
    StageError
        DatasetInvalid: it is damaged, or was cut off; whenever the reading comes to the place.
    """
    try:
        with _raw(path, packing) as file:
            yield file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _damaged(name, packing, error) from error
    except OSError as error:
        # What pyarrow raises carries no number of the operating system.
        if packing is None or error.errno is not None:
            raise
        raise _damaged(name, packing, error) from error


@contextmanager
def opened(path: Path, packing: Packing | None, encoding: Encoding, name: str) -> Iterator[BinaryIO]:
    """Open a file of text as UTF-8.

    Bytes that are no text of ``encoding`` become bytes that are no UTF-8, so that only their own row is lost.

    Raises
    ------
    StageError
        DatasetInvalid: as for :func:`unpacked`; or text in which no next line can be found after a bad byte.
    """
    with unpacked(path, packing, name) as file:
        if encoding == "UTF-8":
            yield file
            return
        try:
            # The reader's own buffer is what makes lines of it.
            yield io.BufferedReader(_Transcoded(file, encoding), _CHUNK)
        except UnicodeDecodeError as error:
            raise StageError(
                Reason.DATASET_INVALID,
                f"{name} is not {encoding}: {error.reason}; set dataset.encoding to what it is, or store it as UTF-8",
                tells_mend=True,
            ) from error


def numbered_lines(file: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """Yield (number, line), without a byte order mark; None stands for a line over the bound, which is passed over."""
    number = 0
    while line := file.readline(MAX_RECORD_BYTES + 1):
        number += 1
        if len(line) <= MAX_RECORD_BYTES:
            yield number, line.removeprefix(UTF8_BOM) if number == 1 else line
            continue
        while not line.endswith(b"\n") and (line := file.readline(MAX_RECORD_BYTES)):
            pass
        yield number, None


def text_lines(file: BinaryIO) -> Iterator[str]:
    """Yield lines as text; a line that is too long becomes one lone surrogate, which makes its row a bad one."""
    for _, line in numbered_lines(file):
        # surrogateescape keeps reading after a bad byte, so that only its own row is lost.
        yield "\udcff\n" if line is None else line.decode(errors="surrogateescape")


def _raw(path: Path, packing: Packing | None) -> BinaryIO:
    if packing == "gzip":
        return gzip.open(path, "rb")  # type: ignore[return-value]  # it reads like one
    if packing == "zstd":
        import pyarrow  # noqa: PLC0415 - a tenth of a second, and only for these files

        return io.BufferedReader(pyarrow.input_stream(str(path), compression="zstd"), _CHUNK)
    return path.open("rb")


def _damaged(name: str, packing: Packing | None, error: Exception) -> StageError:
    return StageError(
        Reason.DATASET_INVALID,
        f"{name} can't be unpacked ({packing}): {' '.join(str(error).split())[:200]}; it is damaged or was cut off on "
        "its way, store it anew",
        tells_mend=True,
    )


class _Transcoded(io.RawIOBase):
    """UTF-8 of a stream in another encoding."""

    def __init__(self, source: BinaryIO, encoding: Encoding) -> None:
        self._source = source
        self._decoder = codecs.getincrementaldecoder(encoding)(errors="surrogateescape")
        self._ready = b""
        self._at_end = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # what BufferedReader gives
        while not self._ready and not self._at_end:
            chunk = self._source.read(_CHUNK)
            self._at_end = not chunk
            text = self._decoder.decode(chunk, self._at_end)
            self._ready = text.encode("utf-8", "surrogatepass")
        taken, self._ready = self._ready[: len(buffer)], self._ready[len(buffer) :]
        buffer[: len(taken)] = taken
        return len(taken)
