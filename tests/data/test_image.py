import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dynconv.data.dataset import DataError
from dynconv.data.image import read_image


def picture(path: Path, size: tuple[int, int]) -> Path:
    Image.new("RGB", size, (200, 100, 50)).save(path)
    return path


def test_other_sizes_keep_their_shape_and_lose_their_edges(tmp_path: Path) -> None:
    """Shorter side to 32, centre cut out: of an image twice as wide as high, the middle half stays."""
    wide = np.zeros((64, 128, 3), np.uint8)
    wide[:, 32:96, 0] = 255
    Image.fromarray(wide).save(tmp_path / "wide.png")

    image = read_image(tmp_path / "wide.png")

    assert image.shape == (32, 32, 3)
    assert image[:, 2:-2, 0].min() == 255 and image[..., 1:].max() == 0
    assert read_image(picture(tmp_path / "tiny.png", (3, 5))).shape == (32, 32, 3)


def test_grey_alpha_and_palette_become_rgb_and_exif_turns(tmp_path: Path) -> None:
    for mode in ("L", "RGBA", "P", "1"):
        Image.new(mode, (32, 32)).save(tmp_path / f"{mode}.png")
        assert read_image(tmp_path / f"{mode}.png").shape == (32, 32, 3)
    upper_red = np.zeros((32, 32, 3), np.uint8)
    upper_red[:16, :, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(upper_red).save(tmp_path / "turned.png", exif=exif)
    assert read_image(tmp_path / "turned.png")[-1, :, 0].min() == 255


def test_what_is_transparent_becomes_white(tmp_path: Path) -> None:
    clear = np.zeros((32, 32, 4), np.uint8)
    clear[:16, :, 3] = 255  # the upper half is opaque black
    Image.fromarray(clear).save(tmp_path / "clear.png")
    palette = Image.new("P", (32, 32), 3)
    palette.putpalette([9] * 768)
    palette.save(tmp_path / "palette.png", transparency=3)

    image = read_image(tmp_path / "clear.png")

    assert image[:16].max() == 0 and image[16:].min() == 255
    assert read_image(tmp_path / "palette.png").min() == 255


def test_sixteen_bits_of_grey_are_scaled_not_cut_off(tmp_path: Path) -> None:
    ramp = (np.arange(1024).reshape(32, 32) * 64).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "deep.png")

    image = read_image(tmp_path / "deep.png")

    assert (image == (ramp >> 8)[..., None]).all()


def test_cmyk_and_the_first_frame_of_an_animation(tmp_path: Path) -> None:
    Image.new("CMYK", (32, 32), (0, 255, 255, 0)).save(tmp_path / "print.jpg")
    red, blue = (Image.new("RGB", (32, 32), colour) for colour in ("red", "blue"))
    red.save(tmp_path / "moving.webp", save_all=True, append_images=[blue], lossless=True)

    for name in ("print.jpg", "moving.webp"):
        image = read_image(tmp_path / name)
        assert image[..., 0].min() > 240 and image[..., 1:].max() < 15, name


def test_a_very_long_image_costs_no_more_than_its_middle(tmp_path: Path) -> None:
    long = np.zeros((2, 60_000, 3), np.uint8)
    long[:, 29_999:30_001] = 255
    Image.fromarray(long).save(tmp_path / "long.png")

    assert read_image(tmp_path / "long.png").min() > 100


def test_errors_name_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.png").write_text("no image")
    whole = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(whole, "JPEG")
    (tmp_path / "half.jpg").write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    for name, said in {"text.png": "not an image", "half.jpg": "damaged", "none.png": "No such file"}.items():
        with pytest.raises(DataError, match=rf"{name}: .*{said}"):
            read_image(tmp_path / name)
    with pytest.raises(DataError, match="upload 3: damaged, or not an image"):
        read_image(io.BytesIO(b"no image"), "upload 3")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for size in ((40, 40), (90, 90)):  # a warning of Pillow's, and an error
        bomb = picture(tmp_path / "bomb.png", size)
        with pytest.raises(DataError, match="too large to decode safely"):
            read_image(bomb)


def test_a_damaged_exif_is_an_error_like_any_other() -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "text"
    whole = io.BytesIO()
    Image.new("RGB", (40, 30)).save(whole, "JPEG", exif=exif)
    # The description becomes an image width; Pillow writes the tags anew where it turns an image.
    file = whole.getvalue().replace(b"\x0e\x01\x02\x00", b"\x00\x01\x02\x00")
    file = file.replace(b"\x01\x0e\x00\x02", b"\x01\x00\x00\x02")

    with pytest.raises(DataError, match="upload: damaged"):
        read_image(io.BytesIO(file), "upload")


def test_what_a_server_reads_is_bounded() -> None:
    file = io.BytesIO()
    Image.new("RGB", (40, 30)).save(file, "TIFF")

    with pytest.raises(DataError, match="damaged, or not an image"):
        read_image(file, "upload", formats=("PNG", "JPEG"))
    with pytest.raises(DataError, match="upload: has 40x30 pixels, more than 1,199; scale it down"):
        read_image(file, "upload", max_pixels=1199)
    assert read_image(file, "upload", max_pixels=1200).shape == (32, 32, 3)
