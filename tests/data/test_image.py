import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from dynconv.data.dataset import DataError
from dynconv.data.frame import Frame
from dynconv.data.image import ENDINGS, from_pil, read_image


def picture(path: Path, size: tuple[int, int]) -> Path:
    Image.new("RGB", size, (200, 100, 50)).save(path)
    return path


def test_other_sizes_keep_their_shape_and_lose_their_edges(tmp_path: Path) -> None:
    """Shorter side to 32, centre cut out: of an image twice as wide as high, the middle half stays."""
    wide = np.zeros((64, 128, 3), np.uint8)
    wide[:, 32:96, 0] = 255
    Image.fromarray(wide).save(tmp_path / "wide.png")

    image = read_image(tmp_path / "wide.png", frame=Frame())

    assert image.shape == (32, 32, 3)
    assert image[:, 2:-2, 0].min() == 255 and image[..., 1:].max() == 0
    assert read_image(picture(tmp_path / "tiny.png", (3, 5)), frame=Frame()).shape == (32, 32, 3)


def test_grey_alpha_and_palette_become_rgb_and_exif_turns(tmp_path: Path) -> None:
    for mode in ("L", "RGBA", "P", "1"):
        Image.new(mode, (32, 32)).save(tmp_path / f"{mode}.png")
        assert read_image(tmp_path / f"{mode}.png", frame=Frame()).shape == (32, 32, 3)
    upper_red = np.zeros((32, 32, 3), np.uint8)
    upper_red[:16, :, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(upper_red).save(tmp_path / "turned.png", exif=exif)
    assert read_image(tmp_path / "turned.png", frame=Frame())[-1, :, 0].min() == 255


def test_what_is_transparent_becomes_white(tmp_path: Path) -> None:
    clear = np.zeros((32, 32, 4), np.uint8)
    clear[:16, :, 3] = 255  # the upper half is opaque black
    Image.fromarray(clear).save(tmp_path / "clear.png")
    palette = Image.new("P", (32, 32), 3)
    palette.putpalette([9] * 768)
    palette.save(tmp_path / "palette.png", transparency=3)

    image = read_image(tmp_path / "clear.png", frame=Frame())

    assert image[:16].max() == 0 and image[16:].min() == 255
    assert read_image(tmp_path / "palette.png", frame=Frame()).min() == 255


def png(bits: int, colour: int, row: bytes, transparent: bytes = b"", palette: bytes = b"") -> io.BytesIO:
    """Eight rows of eight pixels, written by hand: Pillow writes few of these."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 8, 8, bits, colour, 0, 0, 0)
    parts = [(b"IHDR", header), (b"PLTE", palette), (b"tRNS", transparent)]
    chunks = b"".join(chunk(kind, content) for kind, content in parts if content)
    pixels = zlib.compress((b"\0" + row) * 8)
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + chunks + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))


@pytest.mark.parametrize(
    ("bits", "colour", "row", "same", "other"),
    [
        (1, 0, b"\0", b"\0\0", b"\0\1"),
        (2, 0, b"\x55\x55", b"\0\1", b"\0\2"),
        (4, 0, b"\x55" * 4, b"\0\5", b"\0\6"),
        (8, 0, b"\5" * 8, b"\0\5", b"\0\6"),
        (16, 0, bytes(16), b"\0\0", b"\0\1"),
        (16, 0, b"\x12\x34" * 8, b"\x12\x34", b"\x12\x35"),
        (8, 2, b"\1\2\3" * 8, b"\0\1\0\2\0\3", b"\0\1\0\2\0\4"),
        (16, 2, b"\1\1\2\2\3\3" * 8, b"\1\1\2\2\3\3", b"\1\1\2\2\4\3"),
        (16, 2, b"\0\1\0\2\0\3" * 8, b"\0\1\0\2\0\3", b"\1\1\0\2\0\3"),
    ],
)
def test_the_transparent_colour_of_a_png_is_found_at_every_depth(
    bits: int, colour: int, row: bytes, same: bytes, other: bytes
) -> None:
    assert read_image(png(bits, colour, row, same), frame=Frame()).min() == 255
    assert read_image(png(bits, colour, row, other), frame=Frame()).min() < 100


def test_transparency_in_every_other_place() -> None:
    clear = [
        png(8, 4, b"\5\0" * 8),  # grey and alpha
        png(16, 4, b"\5\5\0\0" * 8),
        png(8, 6, b"\1\2\3\0" * 8),
        png(16, 6, b"\1\1\2\2\3\3\0\0" * 8),
        png(8, 3, b"\1" * 8, b"\xff\0", bytes(6)),  # an alpha for each entry of the palette
        png(1, 3, b"\xff", b"\xff\0", bytes(6)),
    ]
    for file in clear:
        assert read_image(file, frame=Frame()).min() == 255
    half = read_image(png(8, 3, b"\1" * 8, b"\xff\x80", bytes(6)), frame=Frame())
    assert 126 <= half.min() <= half.max() <= 128


@pytest.mark.parametrize("mode", ["La", "LA", "PA", "RGBa", "RGBA"])
def test_modes_with_alpha_become_white_where_they_are_clear(mode: str) -> None:
    assert from_pil(Image.new(mode, (8, 8)), Frame()).min() == 255


@pytest.mark.parametrize("mode", ["I", "I;16", "I;16B"])
def test_deep_grey_images_of_the_caller_are_scaled_and_left_as_they_are(mode: str) -> None:
    image = Image.new(mode, (8, 8), 0x1234)
    assert (from_pil(image, Frame()) == 0x12).all()
    image.info["transparency"] = 0x1234

    assert from_pil(image, Frame()).min() == 255
    assert image.mode == mode and image.info == {"transparency": 0x1234}


def test_endings_are_those_of_ordinary_stills() -> None:
    usual = {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".tga"}
    assert usual <= ENDINGS
    assert not {".txt", ".npy", ".pdf", ".eps", ".mpg", ".h5"} & ENDINGS


def test_sixteen_bits_of_grey_are_scaled_not_cut_off(tmp_path: Path) -> None:
    ramp = (np.arange(1024).reshape(32, 32) * 64).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "deep.png")

    image = read_image(tmp_path / "deep.png", frame=Frame())

    assert (image == (ramp >> 8)[..., None]).all()


@pytest.mark.parametrize("kind", [np.uint16, np.int32])
@pytest.mark.parametrize(
    ("largest", "shown"),
    [(255, 255), (256, 16), (1023, 63), (4095, 255), (4096, 16), (16383, 63), (32767, 127), (65535, 255)],
)
def test_deep_grey_has_the_range_that_its_values_need(kind: type, largest: int, shown: int, tmp_path: Path) -> None:
    """That of 8, 12 or 16 bits: a dark picture of 12 or 16 bits stays dark, and none of 8 or 12 becomes black."""
    ramp = np.linspace(0, largest, 1024).astype(kind).reshape(32, 32)
    Image.fromarray(ramp).save(tmp_path / "deep.tif")

    image = read_image(tmp_path / "deep.tif", frame=Frame())

    assert image.max() == shown and image.min() == 0 and len(np.unique(image)) == shown + 1


def test_grey_of_32_bits_is_scaled_and_below_zero_is_black(tmp_path: Path) -> None:
    ramp = np.linspace(-1000, 2**31 - 1, 1024).astype(np.int32).reshape(32, 32)
    Image.fromarray(ramp).save(tmp_path / "deep.tif")

    image = read_image(tmp_path / "deep.tif", frame=Frame())

    assert image[0, 0, 0] == 0 and image.max() == 127 and (np.diff(image[..., 0].ravel().astype(int)) >= 0).all()


def test_cmyk_and_the_first_frame_of_an_animation(tmp_path: Path) -> None:
    Image.new("CMYK", (32, 32), (0, 255, 255, 0)).save(tmp_path / "print.jpg")
    red, blue = (Image.new("RGB", (32, 32), colour) for colour in ("red", "blue"))
    red.save(tmp_path / "moving.webp", save_all=True, append_images=[blue], lossless=True)

    for name in ("print.jpg", "moving.webp"):
        image = read_image(tmp_path / name, frame=Frame())
        assert image[..., 0].min() > 240 and image[..., 1:].max() < 15, name


def test_a_very_long_image_costs_no_more_than_its_middle(tmp_path: Path) -> None:
    long = np.zeros((2, 60_000, 3), np.uint8)
    long[:, 29_999:30_001] = 255
    Image.fromarray(long).save(tmp_path / "long.png")

    assert read_image(tmp_path / "long.png", frame=Frame()).min() > 100


def test_errors_name_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.png").write_text("no image")
    whole = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(whole, "JPEG")
    (tmp_path / "half.jpg").write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    for name, said in {"text.png": "not an image", "half.jpg": "damaged", "none.png": "No such file"}.items():
        with pytest.raises(DataError, match=rf"{name}: .*{said}"):
            read_image(tmp_path / name, frame=Frame())
    with pytest.raises(DataError, match="upload 3: damaged, or not an image"):
        read_image(io.BytesIO(b"no image"), "upload 3", frame=Frame())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for size in ((40, 40), (90, 90)):  # a warning of Pillow's, and an error
        bomb = picture(tmp_path / "bomb.png", size)
        with pytest.raises(DataError, match="too large to decode safely"):
            read_image(bomb, frame=Frame())


def test_a_damaged_exif_is_an_error_like_any_other() -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "text"
    whole = io.BytesIO()
    Image.new("RGB", (40, 30)).save(whole, "JPEG", exif=exif)
    # The description becomes an image width; Pillow writes the tags again when it turns an image.
    file = whole.getvalue().replace(b"\x0e\x01\x02\x00", b"\x00\x01\x02\x00")
    file = file.replace(b"\x01\x0e\x00\x02", b"\x01\x00\x00\x02")

    with pytest.raises(DataError, match="upload: damaged"):
        read_image(io.BytesIO(file), "upload", frame=Frame())


def test_what_a_server_reads_is_bounded() -> None:
    file = io.BytesIO()
    Image.new("RGB", (40, 30)).save(file, "TIFF")

    with pytest.raises(DataError, match="damaged, or not an image"):
        read_image(file, "upload", formats=("PNG", "JPEG"), frame=Frame())
    with pytest.raises(DataError, match="upload: has 40x30 pixels, more than 1,199; scale it down"):
        read_image(file, "upload", max_pixels=1199, frame=Frame())
    assert read_image(file, "upload", max_pixels=1200, frame=Frame()).shape == (32, 32, 3)


def test_postscript_is_not_handed_to_another_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = tmp_path / "ran"
    (tmp_path / "bin").mkdir()
    for name in ("gs", "gswin64c", "gswin32c"):
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\ntouch {ran}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # not looked for yet
    Image.new("RGB", (32, 32)).save(tmp_path / "really.eps")
    disguised = (tmp_path / "really.eps").rename(tmp_path / "disguised.png")

    with pytest.raises(DataError, match=r"disguised\.png: is PostScript"):
        read_image(disguised, frame=Frame())
    assert not ran.exists()


def test_floating_point_pixels_are_refused(tmp_path: Path) -> None:
    """Between 0 and 1, as most are, they would all become black."""
    Image.fromarray(np.full((32, 32), 0.5, np.float32)).save(tmp_path / "deep.tif")

    with pytest.raises(DataError, match=r"deep\.tif: has floating-point pixels"):
        read_image(tmp_path / "deep.tif", frame=Frame())
