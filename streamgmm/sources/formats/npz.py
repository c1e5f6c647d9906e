"""`.npz` files: an array, or columns of equal length. What `numpy.savez` wrote is read in place, part by part.

`savez_compressed` makes arrays that can only be decoded from their beginning: those are decoded once and held.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, cast
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

import numpy as np

from streamgmm.errors import ChunkReadError
from streamgmm.sources.base import RunSource, Source
from streamgmm.sources.columns import Chosen, WeightChoice
from streamgmm.sources.formats.array import ArraySource
from streamgmm.sources.formats.joined import join
from streamgmm.sources.formats.members import Member, choose, what_of
from streamgmm.sources.formats.npy import FileSource, Layout, read_header
from streamgmm.sources.integrity import stamp
from streamgmm.sources.labels import numbers_rows

__all__ = ["open_npz"]

_LOCAL_HEADER = 30
"""Bytes before the name in front of what a zip file holds; the lengths of name and extra field end it."""


def open_npz(path: str, inner: str, *, columns: Chosen, weight: WeightChoice, chunk_rows: int | None) -> Source:
    """A source over the only array of a file, the one that `inner` names, or columns of the same length.

    Raises
    ------
    ValueError
        Where there is more than one table, with the choices.
    ChunkReadError
        Where the file is damaged.
    """
    try:
        with ZipFile(path) as archive:
            found = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            members = [_member(archive, name, info, path) for name, info in found.items()]
            chosen = choose(path, inner, members, columns)

            def open_member(member: Member, positions: tuple[int, ...] | None, **more: Any) -> RunSource:
                name = f"{path}::{member.path}"
                info, given = found[member.path], {"columns": positions, **more}
                if info.compress_type == ZIP_STORED:
                    return FileSource(_layout(archive, info, path), name=name, **given)
                return ArraySource(_decoded(archive, info), name=name, **given)

            if len(chosen) == 1 and chosen[0].is_matrix:
                return open_member(chosen[0], cast(Any, columns), weight=weight, chunk_rows=chunk_rows)
            name = f"{path}::{chosen[0].path}" if len(chosen) == 1 else path
            return join(name, "npz", chosen, open_member, columns=columns, weight=weight, chunk_rows=chunk_rows)
    except (BadZipFile, OSError, EOFError, struct.error) as error:
        raise ChunkReadError(path, 0, f"the npz file is cut short or damaged ({error}). Restore it.") from error


def _member(archive: ZipFile, name: str, info: ZipInfo, path: str) -> Member:
    with archive.open(info) as file:
        shape, _, dtype = read_header(file, f"{path}::{name}")
    label = False
    if name == "index" and len(shape) == 1 and dtype.kind in "iu":
        label = numbers_rows(_decoded(archive, info)[:1000, 0])
    return Member(name, tuple(shape), dtype, what_of(dtype), label)


def _layout(archive: ZipFile, info: ZipInfo, path: str) -> Layout:
    """Where an array lies that is stored as it is."""
    mark = stamp(path)
    with open(path, "rb") as file:
        file.seek(info.header_offset + _LOCAL_HEADER - 4)
        lengths = struct.unpack("<HH", file.read(4))
    with archive.open(info) as file:
        shape, fortran, dtype = read_header(file, path)
        begin = info.header_offset + _LOCAL_HEADER + sum(lengths) + file.tell()
    layout = Layout(path, mark, begin, dtype, _two(shape), fortran)
    if layout.end - layout.offset > info.file_size:
        raise BadZipFile(f"{info.filename} holds {info.file_size} bytes, its header says {layout.end - layout.offset}")
    return layout


def _decoded(archive: ZipFile, info: ZipInfo) -> Any:
    with archive.open(info) as file:
        array = np.lib.format.read_array(file, allow_pickle=False)
    return array.reshape(_two(array.shape))


def _two(shape: Sequence[int]) -> tuple[int, int]:
    """The shape of a matrix; a vector is a column."""
    return int(shape[0]), int(shape[1]) if len(shape) > 1 else 1
