"""One picture at a time: what is refused, what is put right, and that Pillow alone gives the same pixels."""

from __future__ import annotations

import io
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms
from tests.data.made import encoded, picture

from ssd1b.data import pictures
from ssd1b.data.buckets import fit, table
from ssd1b.data.pictures import Unfit, look, prepared, upright_rgb

KINDS = ("PNG", "JPEG", "WEBP", "GIF")


def reason(data: bytes) -> str:
    with pytest.raises(Unfit) as refused:
        look(data)
    assert refused.value.detail
    return refused.value.reason


@pytest.mark.parametrize("kind", KINDS)
def test_a_sound_picture_is_what_pillow_says(kind) -> None:
    data = encoded(picture(1, (150, 100)), kind)
    seen = look(data)
    assert (seen.size, seen.flags, len(seen.grid)) == ((150, 100), (), 192)
    stock = Image.open(io.BytesIO(data)).convert("RGB")
    assert np.array_equal(np.asarray(upright_rgb(data)[0]), np.asarray(stock))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.97])
def test_a_picture_that_ends_too_early_is_cut_short(kind, share) -> None:
    data = encoded(picture(2), kind)
    assert reason(data[: max(16, int(len(data) * share))]) == "truncated"


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_noise_is_refused_and_never_fails_otherwise(data) -> None:
    assert reason(data) in ("undecodable", "truncated")


@settings(deadline=None)
@given(st.sampled_from(KINDS), st.integers(0, 10_000), st.integers(0, 255))
def test_a_changed_byte_is_survived(kind, at, value) -> None:
    data = bytearray(encoded(picture(3, (64, 48)), kind))
    data[at % len(data)] = value
    try:
        assert len(look(bytes(data)).grid) == 192
    except Unfit as refused:
        assert refused.reason in ("undecodable", "truncated", "too many pixels", "animated")


def test_pages_empty_files_and_broken_insides_are_undecodable() -> None:
    data = encoded(picture(4))
    middle = len(data) // 2
    for broken in (b"", b"<!DOCTYPE html>", data[:middle] + bytes(40) + data[middle + 40 :]):
        assert reason(broken) == "undecodable"


def test_damage_that_still_decodes_is_found_by_its_checksum() -> None:
    data = encoded(Image.new("RGB", (64, 64), "red"))
    at, blue = data.index(b"IDAT"), zlib.compress((b"\0" + bytes([0, 0, 255]) * 64) * 64)
    end = at + 4 + int.from_bytes(data[at - 4 : at], "big")
    other = data[: at - 4] + len(blue).to_bytes(4, "big") + b"IDAT" + blue + data[end:]  # with red's checksum
    assert Image.open(io.BytesIO(other)).convert("RGB").getpixel((5, 5)) == (0, 0, 255)
    assert reason(other) == "undecodable"


def test_a_bomb_is_named_without_being_decoded(monkeypatch) -> None:
    data = bytearray(encoded(picture(5)))
    data[16:24] = (50_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    monkeypatch.setattr(Image.Image, "load", None)
    limit = Image.MAX_IMAGE_PIXELS
    assert reason(bytes(data)) == "too many pixels"
    assert limit == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_several_frames_are_refused(kind) -> None:
    assert reason(encoded(picture(6), kind, save_all=True, append_images=[picture(7)])) == "animated"


def test_a_photo_with_a_preview_behind_it_is_one_picture() -> None:
    assert look(encoded(picture(6), "MPO", save_all=True, append_images=[picture(7)])).size == (128, 128)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_picture_is_turned_the_way_it_says(orientation) -> None:
    meant, exif = picture(8, (120, 80)), Image.Exif()
    exif[0x0112] = orientation
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]  # PIL's transposes, by number
    stored = meant.transpose(Image.Transpose(undo))
    image, flags = upright_rgb(encoded(stored, "PNG", exif=exif))
    assert flags == ("turned",) and image.size == (120, 80)
    assert np.array_equal(np.asarray(image), np.asarray(meant))


def test_printing_colours_become_rgb() -> None:
    image, flags = upright_rgb(encoded(picture(9).convert("CMYK"), "JPEG", quality=95))
    assert flags == ("cmyk",)
    assert np.abs(np.asarray(image).astype(int) - np.asarray(picture(9))).mean() < 4


def test_sixteen_bits_become_eight_by_scale_not_by_clipping() -> None:
    grey = np.asarray(picture(10).convert("L"))
    image, flags = upright_rgb(encoded(Image.fromarray(grey.astype(np.uint16) * 257)))
    assert flags == ("16-bit",)
    assert np.array_equal(np.asarray(image), np.stack([grey] * 3, axis=2))


def test_sixteen_bit_colour_is_flagged_though_pillow_opens_it_as_eight() -> None:
    def chunk(name: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")

    head = (8).to_bytes(4, "big") * 2 + bytes([16, 2, 0, 0, 0])
    rows = b"".join(b"\0" + bytes([200, 9] * 3) * 8 for _ in range(8))
    data = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    image, flags = upright_rgb(data)
    assert flags == ("16-bit",) and image.getpixel((3, 3)) == (200, 200, 200)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_transparency_is_laid_on_white(kind) -> None:
    layered = picture(11).convert("RGBA")
    layered.putalpha(0)
    image, flags = upright_rgb(encoded(layered, kind))
    assert flags == ("transparent",) and np.asarray(image).min() == 255
    layered.putalpha(255)
    assert upright_rgb(encoded(layered, kind))[1] == ()


def test_a_transparent_colour_of_a_palette_counts() -> None:
    image = picture(12).quantize(16)
    assert upright_rgb(encoded(image, "PNG", transparency=image.getpixel((0, 0))))[1] == ("transparent",)


def test_another_colour_profile_is_converted_and_srgb_is_not() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert upright_rgb(encoded(picture(13), icc_profile=srgb))[1] == ()
    assert upright_rgb(encoded(picture(13), icc_profile=b"no profile"))[1] == ()


@settings(deadline=None)
@given(st.integers(40, 300), st.integers(40, 300))
def test_the_pixels_of_a_bucket_are_those_of_plain_pillow(width, height) -> None:
    how = fit((width, height), table("ssd-1b", 128))
    data = encoded(picture(14, (width, height)))
    stock = Image.open(io.BytesIO(data)).convert("RGB").resize(how.resized, Image.Resampling.LANCZOS)
    box = (how.left, how.top, how.left + how.bucket[0], how.top + how.bucket[1])
    ours = prepared(data, how)
    assert ours.shape == (how.bucket[1], how.bucket[0], 3)
    assert np.array_equal(ours, np.asarray(stock.crop(box)))


def test_the_grid_hardly_changes_when_a_picture_is_recompressed() -> None:
    image = picture(15)
    grids = [
        np.frombuffer(look(data).grid, np.uint8).astype(int)
        for data in (encoded(image), encoded(image, "JPEG", quality=60), encoded(image.resize((256, 256))))
    ]
    assert max(np.abs(grids[0] - other).max() for other in grids[1:]) <= 6


def test_pillows_own_limit_is_back_afterwards() -> None:
    limit = Image.MAX_IMAGE_PIXELS
    look(encoded(picture(16)))
    assert limit == Image.MAX_IMAGE_PIXELS and 2 * (limit or 0) > pictures.LARGEST_PX
