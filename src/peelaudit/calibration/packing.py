"""Calibration files as streams of bytes, whether they are plain or packed by gzip or Zstandard.

Nothing is unpacked further than it is read, a kibibyte of the file at a time: a small file which expands without end
costs no more memory or time than a large one. Where a packed file ends too early, that is told.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from typing import BinaryIO, Protocol

from peelaudit.calibration.sources import SourceFile
from peelaudit.errors import CalibrationError
from peelaudit.escape import printable

__all__ = ["beginning", "opened"]

_STEP = 1024
"""Bytes of the file that are unpacked at once: they give at most 32 MiB (Zstandard's blocks of one repeated byte)."""
_WINDOW_LOG = 27
"""How far back Zstandard may refer, as a power of two: what its own command line reads without being asked for more."""


class _Unpacker(Protocol):
    """One member of a gzip file, or frame of Zstandard, as zlib's and both Zstandard libraries' objects have it."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


class _Unpacked(io.RawIOBase):
    """The bytes that a packed file stands for."""

    def __init__(self, source: SourceFile, file: BinaryIO, start: Callable[[], _Unpacker], damage: type[Exception]):
        self._source, self._file, self._start, self._damage = source, file, start, damage
        self._unpacker: _Unpacker | None = None
        self._packed, self._ready = b"", memoryview(b"")

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        """Fill `buffer` as far as what is unpacked at once does.

        Raises:
            CalibrationError: the file is damaged, or ends within a member.
        """
        while not self._ready:
            if not (packed := self._packed or self._file.read(_STEP)):
                if self._unpacker is not None:
                    raise CalibrationError(f"{self._source}: the packed file ends too early; it is truncated")
                return 0
            self._packed = b""
            self._ready = memoryview(self._unpack(packed))
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def _unpack(self, packed: bytes) -> bytes:
        if self._unpacker is None:
            if not packed.strip(
                b"\0"
            ):  # gzip files on tapes are filled up with zeros, and gzip itself passes over them
                return b""
            self._unpacker = self._start()
        try:
            text = self._unpacker.decompress(packed)
        except self._damage as error:
            first = printable(str(error).strip().split("\n")[0])[:120]
            raise CalibrationError(f"{self._source}: the packed file can't be unpacked: {first}") from error
        if self._unpacker.eof:
            self._packed, self._unpacker = self._unpacker.unused_data, None
        return text

    def close(self) -> None:
        """Close the file too."""
        self._file.close()
        super().close()


def opened(source: SourceFile) -> BinaryIO:
    """The file's bytes as a stream, unpacked where it is packed.

    Raises:
        CalibrationError: what unpacks it isn't installed. Reading raises it for a damaged file.
        OSError: the file can't be opened.
    """
    match source.packing:
        case "gz":
            start, damage = _gzip()
        case "zst":
            start, damage = _zstandard(source)
        case _:
            return source.path.open("rb")
    return io.BufferedReader(_Unpacked(source, source.path.open("rb"), start, damage))


def beginning(source: SourceFile, budget: int) -> tuple[bytes, bool]:
    """The first `budget` bytes, and whether these are all.

    Raises:
        CalibrationError: as `opened` and its stream do.
    """
    with opened(source) as file:
        return file.read(budget), not file.read(1)


def _gzip() -> tuple[Callable[[], _Unpacker], type[Exception]]:
    return lambda: zlib.decompressobj(wbits=16 + zlib.MAX_WBITS), zlib.error


def _zstandard(source: SourceFile) -> tuple[Callable[[], _Unpacker], type[Exception]]:
    """By the standard library, which has it from Python 3.14 on, else by the package."""
    try:
        from compression import zstd  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        pass
    else:
        options = {zstd.DecompressionParameter.window_log_max: _WINDOW_LOG}
        return lambda: zstd.ZstdDecompressor(options=options), zstd.ZstdError
    try:
        import zstandard  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        needs = "reading .zst needs zstandard: pip install 'peelaudit[zstd]'"
        raise CalibrationError(f"{source}: {needs}") from error
    return lambda: zstandard.ZstdDecompressor(max_window_size=1 << _WINDOW_LOG).decompressobj(), zstandard.ZstdError
