"""Pictures that come from outside: read by content, measured first, refused in a sentence."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from ssd1b.base.errors import DamagedFileError, MissingFileError, RequestError, UserError
from ssd1b.generate.canvas import Canvas, digest_of, fitted, read_canvas
from ssd1b.generate.canvas import given as given_of
from ssd1b.generate.pixels import image_of, pixels_of


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def claiming(width: int, height: int) -> bytes:
    """A PNG whose header promises a size that its few bytes of pixels do not keep."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(b"\0"))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_a_file_is_known_by_its_pixels_not_by_its_name_or_metadata(tmp_path: Path, kind: str) -> None:
    image = Image.effect_noise((40, 30), 50).convert("RGB")
    path = tmp_path / "photo.txt"
    path.write_bytes(
        encoded(image, kind, lossless=True) if kind == "WEBP" else encoded(image, kind, dpi=(72, 72))
    )
    assert (
        digest_of(read_canvas(path).image)
        == digest_of(image)
        == digest_of(read_canvas(path.read_bytes()).image)
    )


@given(st.binary(min_size=12, max_size=12), st.binary(min_size=12, max_size=12))
def test_different_pixels_and_different_shapes_have_different_hashes(one: bytes, other: bytes) -> None:
    pictures = [Image.frombytes("RGB", (2, 2), one), Image.frombytes("RGB", (2, 2), other)]
    assert (digest_of(pictures[0]) == digest_of(pictures[1])) == (one == other)
    assert digest_of(pictures[0]) != digest_of(Image.frombytes("RGB", (4, 1), one))


def test_a_photograph_is_turned_upright_and_what_is_transparent_is_white() -> None:
    wide = Image.effect_noise((40, 20), 50).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    assert (
        read_canvas(encoded(wide, exif=exif)).image.tobytes()
        == wide.transpose(Image.Transpose.ROTATE_270).tobytes()
    )
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert read_canvas(encoded(clear)).image.getpixel((0, 0)) == (255, 255, 255)
    assert read_canvas(encoded(Image.new("P", (8, 8), 0))).image.mode == "RGB"


def test_a_mask_becomes_black_and_white() -> None:
    ramp = Image.linear_gradient("L").resize((16, 256))
    canvas = read_canvas(encoded(ramp.convert("RGB")), encoded(ramp))
    assert canvas.mask is not None
    assert set(canvas.mask.tobytes()) == {0, 255}
    grey = np.asarray(ramp)
    assert (np.asarray(canvas.mask) == 255 * (grey >= 128)).all()
    assert canvas.fields() == {"image": digest_of(canvas.image), "mask": digest_of(canvas.mask)}
    assert set(canvas.by_digest()) == set(canvas.fields().values())


@pytest.mark.parametrize(
    ("image", "mask", "kind", "said"),
    [
        (b"not a picture", None, DamagedFileError, "cannot be read"),
        (b"", None, DamagedFileError, "cannot be read"),
        (encoded(Image.new("RGB", (64, 64), "red"))[:-30], None, DamagedFileError, "cannot be read"),
        (encoded(Image.new("RGB", (8, 8)), "GIF"), None, DamagedFileError, "PNG, JPEG or WebP"),
        (claiming(8001, 8000), None, RequestError, "claims 8001x8000 pixels"),
        (claiming(50_000, 50_000), None, RequestError, "Make it smaller"),
        (encoded(Image.new("RGB", (8, 8))), encoded(Image.new("L", (8, 9), 255)), RequestError, "8x9 pixels"),
        (
            encoded(Image.new("RGB", (8, 8))),
            encoded(Image.new("L", (8, 8), 0)),
            RequestError,
            "black all over",
        ),
        (encoded(Image.new("RGB", (8, 8))), b"nothing", DamagedFileError, "cannot be read"),
    ],
)
def test_a_picture_that_cannot_be_painted_over_is_refused(
    image: bytes, mask: bytes | None, kind: type[UserError], said: str
) -> None:
    with pytest.raises(kind, match=said):
        read_canvas(image, mask)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"none\.png"):
        read_canvas(tmp_path / "none.png")


@settings(max_examples=50, deadline=None)
@given(st.integers(8, 90), st.integers(8, 90), st.sampled_from([(64, 96), (96, 64), (64, 64)]))
def test_any_shape_is_fitted_without_being_stretched(width: int, height: int, size: tuple[int, int]) -> None:
    image = Image.effect_noise((width, height), 50).convert("RGB")
    assert fitted(image, size).tobytes() == ImageOps.fit(image, size, Image.Resampling.LANCZOS).tobytes()
    mask = image.convert("L").point([255 * (level > 99) for level in range(256)])
    assert set(fitted(mask, size).tobytes()) <= {0, 255}


def test_a_picture_of_the_right_size_is_left_alone() -> None:
    image = Image.effect_noise((64, 96), 50).convert("RGB")
    assert fitted(image, (64, 96)) is image


def test_pixels_become_a_picture_again_unchanged() -> None:
    image = Image.effect_noise((24, 16), 90).convert("RGB")
    assert image_of(pixels_of(image) * 0.5 + 0.5).tobytes() == image.tobytes()


def test_what_a_request_names_must_be_given() -> None:
    canvas = Canvas(Image.new("RGB", (8, 8)))
    assert given_of(canvas.by_digest(), digest_of(canvas.image)) is canvas.image
    with pytest.raises(RequestError, match=r"hash 000000000000….*--image"):
        given_of(canvas.by_digest(), "0" * 64)
