"""Prediction files, which anybody may have written: unpacked to what numpy reads, or refused."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable

import numpy as np
import pytest

from kdbench.records.predictions import _MOST_ARRAYS, unpack


def test_no_pickle_is_ever_loaded() -> None:
    """Even where the sha256 is that of the file, an object array is refused."""
    buffer = io.BytesIO()
    np.savez(buffer, labels=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match="Python objects"):
        unpack(buffer.getvalue(), 10)


def test_what_claims_too_much_is_refused_before_it_is_unpacked() -> None:
    """A megabyte that unpacks to a gigabyte, says the archive's list of contents or an array's header."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, labels=np.zeros(1 << 24, np.int16))
    assert len(buffer.getvalue()) < 1 << 16
    with pytest.raises(ValueError, match="unpacks to 33,554,560 bytes"):
        unpack(buffer.getvalue(), 10_000)
    lying = io.BytesIO()
    with zipfile.ZipFile(lying, "w") as archive:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<i8", "fortran_order": False, "shape": (1 << 40,)})
        archive.writestr("labels.npy", header.getvalue() + b"\0" * 16)
    with pytest.raises(ValueError, match="not as long as its header says"):
        unpack(lying.getvalue(), 10_000)
    many = io.BytesIO()
    np.savez(many, **{f"a{n}": np.zeros(1) for n in range(_MOST_ARRAYS + 1)})
    with pytest.raises(ValueError, match=f"{_MOST_ARRAYS + 1} arrays"):
        unpack(many.getvalue(), 10_000)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_both_of_numpys_archives_are_unpacked_to_what_numpy_reads(save: Callable[..., None]) -> None:
    arrays = {"labels": np.arange(10, dtype=np.int16), "last_top_p": np.linspace(0, 1, 10).astype(np.float16)}
    buffer = io.BytesIO()
    save(buffer, **arrays)
    for data in (buffer.getvalue(), b"before it" + buffer.getvalue()):
        found = unpack(data, 10)
        assert {name: (a.dtype, a.tolist()) for name, a in found.items()} == {
            name: (a.dtype, a.tolist()) for name, a in arrays.items()
        }


def test_a_damaged_archive_is_no_array() -> None:
    """Each byte changed in turn: what is unpacked all the same is what was packed, and be it there twice."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, labels=np.arange(10, dtype=np.int16), twin=np.arange(10, dtype=np.int16))
    whole = buffer.getvalue()
    for place in range(len(whole)):
        data = whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :]
        try:
            found = unpack(data, 10)
        except ValueError:
            continue
        assert all(array.tolist() == list(range(10)) for array in found.values()), place


@pytest.mark.parametrize(("at", "bit"), [(6, 0x1), (6, 0x20), (6, 0x40)])
def test_an_archive_that_zip_readers_refuse_is_refused(at: int, bit: int) -> None:
    """Who finds a record verified must be able to open what it was verified by."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, labels=np.arange(10, dtype=np.int16))
    whole = bytearray(buffer.getvalue())
    central = whole.index(b"PK\1\2")
    whole[at] |= bit
    whole[central + 2 + at] |= bit
    with pytest.raises(ValueError, match="encrypted"):
        unpack(bytes(whole), 10)
    for place, said in ((0, b"XX"), (30, b"mabels")):  # its first bytes, its name
        other = buffer.getvalue()[:place] + said + buffer.getvalue()[place + len(said) :]
        with pytest.raises(ValueError, match="damaged"):
            unpack(other, 10)


def test_an_archive_packed_otherwise_is_refused() -> None:
    buffer, array = io.BytesIO(), io.BytesIO()
    np.save(array, np.zeros(10, np.int16))
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("labels.npy", array.getvalue())
    with pytest.raises(ValueError, match="in a way that numpy does not use"):
        unpack(buffer.getvalue(), 10)
