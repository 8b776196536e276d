"""Prediction files: what a finished network said of every test image, in a compressed .npz named by its sha256."""

from __future__ import annotations

import hashlib
import io
import math
import zipfile
import zlib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdbench.errors import reason

Arrays = Mapping[str, NDArray[Any]]

#: Bytes of an array's header: more than any array of plain numbers has.
_HEADER = 4096
#: What an array may hold an image: the five best classes of two bytes each, which older files kept in eight.
_BYTES_AN_IMAGE = 5 * 8
#: What stands before a member of an archive: its first bytes, and how many it has, the lengths of two names at the end.
_SIGNATURE, _LOCAL = b"PK\3\4", 30
#: Bits of a member's flags: encrypted, a patch of another file, strongly encrypted.
_ENCRYPTED = 0x1 | 0x20 | 0x40
#: Arrays of a file: the labels, and three for each of three selections, or seven where classes were left out.
_MOST_ARRAYS = 22


def pack(predictions: Arrays) -> tuple[str, bytes]:
    """The sha256 and the bytes of a prediction file; equal bytes for equal arrays."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{name: predictions[name] for name in sorted(predictions)})  # type: ignore[arg-type]
    return digest_of(buffer.getvalue()), buffer.getvalue()


def digest_of(data: bytes) -> str:
    """What names a prediction file of these bytes."""
    return hashlib.sha256(data).hexdigest()


def unpack(data: bytes, images: int) -> dict[str, NDArray[Any]]:
    """The arrays of a prediction file of at most ``images`` images.

    Anybody may have written it: what it claims to hold is compared with what it may before a byte is unpacked, and
    nothing in it is executed. ValueError where it claims more, or is no archive of plain arrays.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError) as error:  # the latter: it claims a version that nobody writes
        raise ValueError(f"it is no archive of arrays: {reason(error)}") from None
    most = _HEADER + images * _BYTES_AN_IMAGE
    if len(members) > _MOST_ARRAYS:
        raise ValueError(f"it holds {len(members):,} arrays, a prediction file at most {_MOST_ARRAYS}")
    found: dict[str, NDArray[Any]] = {}
    read: dict[tuple[bytes, int, int, int], NDArray[Any]] = {}  # where the best epoch is the last, all is there twice
    for member in members:
        name = member.filename.removesuffix(".npy")
        if member.file_size > most:
            raise ValueError(
                f"{name[:40]!r} unpacks to {member.file_size:,} bytes, and {images:,} images have {most:,}"
            )
        packed = _packed(data, member), member.compress_type, member.file_size, member.CRC
        if packed not in read:
            read[packed] = _array(_inflated(*packed))
        found[name] = read[packed]
    return found


def _packed(data: bytes, member: zipfile.ZipInfo) -> bytes:
    """The content of a ``member`` of the archive ``data`` as it is there; ValueError where that is unsound."""
    header = data[member.header_offset : member.header_offset + _LOCAL]
    named, extra = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
    begin = member.header_offset + _LOCAL + named + extra
    name = data[begin - named - extra : begin - extra].decode("utf-8" if member.flag_bits & 0x800 else "cp437")
    if header[:4] != _SIGNATURE or name != member.orig_filename:
        raise ValueError("an array of it is damaged")
    if member.flag_bits & _ENCRYPTED:
        raise ValueError("it is encrypted or a patch")
    return data[begin : begin + member.compress_size]


def _inflated(packed: bytes, how: int, size: int, crc: int) -> bytes:
    """What is ``packed``, in one piece, which zipfile makes of many.

    No more than its ``size``, whatever else it would inflate to; ValueError where it is damaged or packed in another
    way than numpy does.
    """
    body = packed
    if how == zipfile.ZIP_DEFLATED:
        try:
            body = zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, size + 1)
        except zlib.error:
            raise ValueError("an array of it is damaged") from None
    elif how != zipfile.ZIP_STORED:
        raise ValueError("it is packed in a way that numpy does not use")
    if len(body) != size or zlib.crc32(body) != crc:
        raise ValueError("an array of it is damaged")
    return body


def _array(data: bytes) -> NDArray[Any]:
    """The array that ``data`` is, whose header must say as much as is there."""
    length = 10 + int.from_bytes(data[8:10], "little") if data[6:7] == b"\1" else _HEADER
    shape, fortran, dtype, begin = _header(data[:length])
    body = data[begin:]
    if math.prod(shape) * dtype.itemsize != len(body):
        raise ValueError("an array of it is not as long as its header says")
    return np.frombuffer(body, dtype).reshape(shape, order="F" if fortran else "C")


@lru_cache(maxsize=256)
def _header(data: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, order and type of an array, and where it begins: few headers differ, and each takes numpy long to read."""
    stream = io.BytesIO(data)
    major, _ = np.lib.format.read_magic(stream)
    read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}.get(major)
    if read is None:
        raise ValueError("an array of it is in an unknown form")
    shape, fortran, dtype = read(stream, max_header_size=_HEADER)
    if dtype.hasobject:
        raise ValueError("an array of it holds Python objects, which are not loaded")
    return shape, fortran, dtype, stream.tell()
