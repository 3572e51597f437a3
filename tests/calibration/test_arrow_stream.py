import contextlib
import io
import struct

import pytest

from peelaudit.calibration.arrow_stream import check_messages

pyarrow = pytest.importorskip("pyarrow")
ipc = pytest.importorskip("pyarrow.ipc")


def stream(compression: str | None = None, dictionary: bool = False, whole: bool = False) -> bytes:
    column = pyarrow.array(["a text that is long enough to be compressed " * 9] * 50)
    table = pyarrow.table({"text": column.dictionary_encode() if dictionary else column})
    options = ipc.IpcWriteOptions(compression=compression)
    sink = io.BytesIO()
    with (ipc.new_file if whole else ipc.new_stream)(sink, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=10)
    return sink.getvalue()


def check(raw: bytes) -> int:
    return check_messages(io.BytesIO(raw), len(raw))


@pytest.mark.parametrize("dictionary", [False, True])
def test_sound_streams_pass_in_both_formats(dictionary: bool) -> None:
    assert check(stream(dictionary=dictionary)) == 0
    assert check(stream(dictionary=dictionary, whole=True)) == 8


@pytest.mark.parametrize("dictionary", [False, True])
@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_compressed_buffers_are_refused(compression: str, dictionary: bool) -> None:
    for whole in (False, True):
        with pytest.raises(ValueError, match="its buffers are compressed"):
            check(stream(compression, dictionary, whole))


@pytest.mark.parametrize("raw", [b"garbage, and more of it", b"PAR1" * 100, b"{}" * 50, b"\0" * 4096])
def test_what_is_no_stream_is_told(raw: bytes) -> None:
    with pytest.raises(ValueError, match="it is no Arrow stream"):
        check(raw)


def test_a_body_that_is_longer_than_the_file_is_told_before_it_is_read() -> None:
    raw = bytearray(stream())
    first = struct.unpack_from("<i", raw, 4)[0]
    at = 8 + first + 8  # of the second message: the schema has no body
    table = at + struct.unpack_from("<I", raw, at)[0]
    vtable = table - struct.unpack_from("<i", raw, table)[0]
    body = table + struct.unpack_from("<H", raw, vtable + 10)[0]
    assert 0 < struct.unpack_from("<q", raw, body)[0] < len(raw)
    for length in (2**40, 2**62, -8):
        struct.pack_into("<q", raw, body, length)
        with pytest.raises(ValueError, match="promises"):
            check(bytes(raw))


def test_every_byte_of_a_header_may_be_wrong() -> None:
    raw = stream()
    for position in range(600):
        changed = bytearray(raw)
        changed[position] ^= 0xFF
        with contextlib.suppress(ValueError):  # and nothing else
            check(bytes(changed))
