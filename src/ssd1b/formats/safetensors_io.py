"""Read and write safetensors files, never holding more than one small buffer of them.

`read_file` reads and checks a header and gives a `View` of each tensor; only `write_file` moves bytes. They
go through a buffer and are not mapped, since the touched pages of a mapped file count as resident memory.

Knows no models, keys or folders, and needs no torch. Format: github.com/huggingface/safetensors, "Format".
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path

from ssd1b.base.errors import DamagedFileError, LayoutError, MissingFileError
from ssd1b.base.units import human_bytes
from ssd1b.formats.numbers import cast, transpose
from ssd1b.formats.views import DTYPE_BYTES, Span, View

BUFFER_BYTES = 1 << 20  # stays in the processor's cache: 8 MB took five times the processor time
HEADER_LIMIT_BYTES = 100_000_000  # the reference implementation refuses longer headers

# What people hand in instead, told by the first bytes. Nothing of it is ever opened as what it is.
FOREIGN = (
    (b"PK\x03\x04", "a PyTorch pickle (zip archive), which can run code when it is opened"),
    (b"\x80\x02", "a Python pickle, which can run code when it is opened"),
    (b"\x80\x03", "a Python pickle, which can run code when it is opened"),
    (b"\x80\x04", "a Python pickle, which can run code when it is opened"),
    (b"\x80\x05", "a Python pickle, which can run code when it is opened"),
    (b"GGUF", "a GGUF file"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"version https://git-lfs", "a Git LFS pointer and not the file itself (`git lfs pull` fetches it)"),
    (b"<!DOCTYPE", "a web page, most likely an error page of the download"),
    (b"<html", "a web page, most likely an error page of the download"),
)


@dataclass(frozen=True, slots=True)
class TensorFile:
    """What a safetensors file (or several that belong together) holds, in file order.

    `whole` says that these are all tensors of one file under their own names, so that the file can be copied.
    """

    paths: tuple[Path, ...]
    tensors: Mapping[str, View]
    metadata: Mapping[str, str] = field(default_factory=dict)
    whole: bool = False

    @property
    def n_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(view.n_bytes for view in self.tensors.values())


def read_file(path: Path) -> TensorFile:
    """Read and check the header of one safetensors file; the tensors themselves are not touched.

    Raises:
        MissingFileError: there is no such file.
        DamagedFileError: it is not safetensors by content, is cut short, or contradicts itself.
    """
    if not path.is_file():
        raise MissingFileError(f"There is no file {path}.")
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(64)
        length = int.from_bytes(head[:8], "little")
        refuse_foreign(path, head)
        if 8 + length > size:
            raise DamagedFileError(cut_short(path, size, 8 + length))
        file.seek(8)
        raw = file.read(length)
    header = parse_header(path, raw)
    metadata = header.pop("__metadata__", {})
    assert isinstance(metadata, dict)
    tensors = {name: view_of(path, name, entry, 8 + length) for name, entry in header.items()}
    tensors = dict(sorted(tensors.items(), key=lambda item: item[1].spans[0].offset))
    check_extent(path, tensors, 8 + length, size)
    return TensorFile((path,), tensors, {str(key): str(value) for key, value in metadata.items()}, True)


def refuse_foreign(path: Path, head: bytes) -> None:
    """Raise DamagedFileError unless the first bytes can begin a safetensors file; no suffix is believed."""
    for magic, what in FOREIGN:
        if head.startswith(magic):
            raise DamagedFileError(f"{path} is {what}. Only safetensors files are read: use one of those.")
    length = int.from_bytes(head[:8], "little")
    if len(head) < 10 or length > HEADER_LIMIT_BYTES or not head[8:].startswith(b"{"):
        what = "is empty" if not head else "is not a safetensors file (judged by its content)"
        raise DamagedFileError(f"{path} {what}. Download it again, or use the .safetensors file.")


def cut_short(path: Path, size: int, expected: int) -> str:
    """The sentence for a file that ends too early."""
    return (
        f"{path} is cut short: its header promises {human_bytes(expected)} ({expected} bytes) and"
        f" {human_bytes(size)} ({size} bytes) are there. Download it again."
    )


def parse_header(path: Path, raw: bytes) -> dict[str, object]:
    """The header's JSON object, with doubled names refused."""

    def without_doubles(pairs: list[tuple[str, object]]) -> dict[str, object]:
        if len(dict(pairs)) != len(pairs):
            raise ValueError("a name occurs twice")
        return dict(pairs)

    try:
        header = json.loads(raw, object_pairs_hook=without_doubles)
    except ValueError as error:
        raise DamagedFileError(f"The header of {path} is damaged ({error}). Download it again.") from error
    if not isinstance(header, dict) or not isinstance(header.get("__metadata__", {}), dict):
        raise DamagedFileError(f"The header of {path} is not a safetensors header. Download it again.")
    return header


def view_of(path: Path, name: str, entry: object, data_start: int) -> View:
    """One header entry as a view, with dtype, shape and offsets checked against each other."""
    try:
        assert isinstance(entry, dict)
        begin, end = map(int, entry["data_offsets"])
        span = Span(path, data_start + begin, end - begin)
        view = View(str(entry["dtype"]), tuple(int(side) for side in entry["shape"]), (span,))
        fits = view.n_bytes == span.n_bytes and begin >= 0 and min(view.shape, default=0) >= 0
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise DamagedFileError(f"{path} describes tensor {name!r} in an unknown way: {entry}.") from error
    if not fits:
        raise DamagedFileError(f"{path} is damaged: tensor {name!r} of {entry} does not fit its place.")
    return view


def check_extent(path: Path, tensors: Mapping[str, View], data_start: int, size: int) -> None:
    """Raise unless the tensors follow one another without gaps and end where the file ends."""
    position = data_start
    for name, view in tensors.items():
        if view.spans[0].offset != position:
            raise DamagedFileError(f"{path} is damaged: {name!r} does not begin where the last tensor ends.")
        position += view.n_bytes
    if size < position:
        raise DamagedFileError(cut_short(path, size, position))
    if size > position:
        raise DamagedFileError(f"{path} is damaged: {size - position} bytes too many follow its last tensor.")


def read_sharded(index: Path) -> TensorFile:
    """Read the headers of all shards that an `*.index.json` names, as one file.

    Raises:
        MissingFileError: shards are not there; they are named.
        DamagedFileError: the index or a shard is damaged.
    """
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(weight_map.values()))
        if any(Path(name).name != name for name in names):
            raise ValueError("a shard lies in another folder")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedFileError(f"{index} is no index of shards ({error!r}). Download it again.") from error
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise MissingFileError(
            f"{index} names {len(names)} shards, of which {len(missing)} are not there: {', '.join(missing)}."
            " Download them into the same folder."
        )
    files = [read_file(index.parent / name) for name in names]
    tensors = {name: view for file in files for name, view in file.tensors.items()}
    lost = sorted(set(weight_map) - set(tensors))
    if lost:
        raise DamagedFileError(f"{index} promises {len(lost)} tensors that no shard holds, e.g. {lost[0]!r}.")
    return TensorFile(tuple(file.paths[0] for file in files), tensors, files[0].metadata)


def header_bytes(tensors: Mapping[str, View], metadata: Mapping[str, str], dtype: str | None) -> bytes:
    """Length and header as the reference implementation writes them: compact, in order, padded to 8 bytes."""
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    position = 0
    for name, view in tensors.items():
        kind = dtype_after(view.dtype, dtype)
        size = view.n_bytes * DTYPE_BYTES[kind] // DTYPE_BYTES[view.dtype]
        header[name] = {"dtype": kind, "shape": list(view.shape), "data_offsets": [position, position + size]}
        position += size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def dtype_after(dtype: str, wanted: str | None) -> str:
    """The dtype a tensor has after a cast: only floating numbers are cast, indices and flags stay."""
    return wanted if wanted is not None and dtype in ("F16", "BF16", "F32", "F64") else dtype


def written_bytes(tensors: Mapping[str, View], dtype: str | None = None) -> int:
    """How many bytes of tensors `write_file` will write."""
    return sum(
        view.n_bytes * DTYPE_BYTES[dtype_after(view.dtype, dtype)] // DTYPE_BYTES[view.dtype]
        for view in tensors.values()
    )


def write_file(
    path: Path,
    tensors: Mapping[str, View],
    *,
    metadata: Mapping[str, str] | None = None,
    dtype: str | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> None:
    """Write a safetensors file: header first, then tensor after tensor through one small buffer.

    `dtype` ("F16", "BF16" or "F32") casts floating tensors, None leaves every byte as it is. `on_bytes` hears
    how many bytes were written since its last call. An OSError passes through: the caller owns the folder.

    Raises:
        LayoutError: a number does not fit into float16.
        DamagedFileError: a source became shorter meanwhile.
    """
    buffer = memoryview(bytearray(BUFFER_BYTES))
    with ExitStack() as stack, path.open("wb", buffering=0) as out:
        opened: dict[Path, FileIO] = {}
        for source in {span.path for view in tensors.values() for span in view.spans}:
            opened[source] = stack.enter_context(source.open("rb", buffering=0))
        write_all(out, header_bytes(tensors, metadata or {}, dtype))
        for name, view in tensors.items():
            for chunk in _chunks(name, view, read_spans(view.spans, opened, buffer), dtype):
                write_all(out, chunk)
                if on_bytes is not None:
                    on_bytes(len(chunk))


def copy_file(source: Path, target: Path, *, on_bytes: Callable[[int], None] | None = None) -> None:
    """Copy a whole file, byte by byte, through the same buffer and with the same report as `write_file`."""
    buffer = memoryview(bytearray(BUFFER_BYTES))
    with source.open("rb", buffering=0) as file, target.open("wb", buffering=0) as out:
        span = Span(source, 0, source.stat().st_size)
        for piece in read_spans([span], {source: file}, buffer):
            write_all(out, piece)
            if on_bytes is not None:
                on_bytes(len(piece))


def write_all(out: FileIO, chunk: bytes | memoryview) -> None:
    """Write every byte; a raw file may take fewer than it is given."""
    rest = memoryview(chunk)
    while len(rest):
        rest = rest[out.write(rest) :]


def read_spans(
    spans: Iterable[Span], opened: Mapping[Path, FileIO], buffer: memoryview
) -> Iterator[memoryview]:
    """The bytes of spans in order, through one buffer that is overwritten at each step."""
    for span in spans:
        file = opened[span.path]
        file.seek(span.offset)
        left = span.n_bytes
        while left:
            # Filled to the brim: half a number must not reach the cast, and a raw read may end anywhere.
            piece = buffer[: min(left, len(buffer))]
            filled = 0
            while filled < len(piece):
                n_read = file.readinto(piece[filled:])
                if not n_read:
                    raise DamagedFileError(f"{span.path} became shorter while being read. Try again.")
                filled += n_read
            left -= filled
            yield piece


def read_bytes(view: View) -> bytes:
    """All bytes of one tensor, row by row, in memory."""
    with ExitStack() as stack:
        opened = {s.path: stack.enter_context(s.path.open("rb", buffering=0)) for s in view.spans}
        buffer = memoryview(bytearray(max((s.n_bytes for s in view.spans), default=0)))
        pieces = read_spans(view.spans, opened, buffer)
        return b"".join(bytes(piece) for piece in _chunks("", view, pieces, None))


def _chunks(
    name: str, view: View, pieces: Iterator[memoryview], dtype: str | None
) -> Iterator[bytes | memoryview]:
    """The bytes of one tensor, piece by piece, transposed and cast as asked."""
    if view.transposed:
        pieces = iter([memoryview(transpose(b"".join(pieces), view.shape, DTYPE_BYTES[view.dtype]))])
    wanted = dtype_after(view.dtype, dtype)
    for piece in pieces:
        if wanted == view.dtype:
            yield piece
            continue
        try:
            yield cast(piece, view.dtype, wanted)
        except OverflowError as error:
            raise LayoutError(
                f"Tensor {name!r} of {view.spans[0].path} {error}. Use bf16 or fp32 instead."
            ) from error
