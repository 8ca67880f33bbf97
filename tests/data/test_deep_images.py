"""Images of more than 8 bits become 8 bits by a stated range or that of their values; formats; limit of pixels."""

import io
import logging
import struct
import zlib

import datasets
import numpy as np
import pytest
import torch
from fixtures.cli import recipe_of, record_of, start
from fixtures.streams import loader_of, open_stream
from PIL import EpsImagePlugin, Image

from hf_mixup import predict
from hf_mixup.data import DataError, Images, load_data, to_rgb
from hf_mixup.data.decode import FORMATS, Decoder, open_image
from hf_mixup.data.image_paths import ImageDecodeError

RAMP = np.linspace(0, 1, 4096).reshape(64, 64)
SIDE = 64


@pytest.fixture(autouse=True)
def own_state(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # restored after each test


def saved(values, kind="TIFF", **options):
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, kind, **options)
    return buffer.getvalue()


def png16(values, *significant):
    """A PNG file of 16 bits: grey, grey and alpha, RGB or RGBA; with sBIT if significant bits are given."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    colour = {1: 0, 2: 4, 3: 2, 4: 6}[1 if values.ndim == 2 else values.shape[2]]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", values.shape[1], len(values), 16, colour, 0, 0, 0))
    bits = chunk(b"sBIT", bytes(significant)) if significant else b""
    return b"\x89PNG\r\n\x1a\n" + head + bits + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def levels(bits):
    return np.round(RAMP * (2**bits - 1)).astype(np.uint16)


def colours(bits, channels=3):
    return np.repeat(levels(bits)[..., None], channels, 2)


def with_alpha(values):
    return np.concatenate([values, np.full_like(values[..., :1], 65535)], axis=2)


def decoded(content, decoder=None):
    image = (decoder or Decoder())({"bytes": content, "path": None}, "x.tif")
    assert image.mode == "RGB"
    return np.asarray(image)


FULL_RANGE = {
    "floats up to 1": saved(RAMP.astype(np.float32)),
    "floats up to 255": saved((255 * RAMP).astype(np.float32)),
    "floats up to 65535": saved((65535 * RAMP).astype(np.float32)),
    "floats from -1 to 1": saved((2 * RAMP - 1).astype(np.float32)),
    "other floats": saved((2000 * RAMP - 500).astype(np.float32)),
    "compressed floats": saved(RAMP.astype(np.float32), compression="tiff_lzw"),
    "stated floats": saved((300 * RAMP + 100).astype(np.float32), tiffinfo={340: 100.0, 341: 400.0}),
    **{f"{bits} of 16 bits, TIFF": saved(levels(bits)) for bits in (8, 10, 12, 14, 16)},
    **{f"{bits} of 16 bits, PNG": png16(levels(bits)) for bits in (8, 10, 12, 14, 16)},
    "9 bits, sBIT": png16(levels(9), 9),
    "11 bits, MaxSampleValue": saved(levels(11), tiffinfo={281: 2047}),
    "16 bits, sBIT of scaled values": png16(levels(16), 12),
    "big endian": saved(levels(12).astype(">u2")),
    "32-bit integers": saved(levels(12).astype(np.int32)),
    "negative integers": saved(levels(12).astype(np.int32) - 1024),
    "PGM": b"P5 64 64 4095\n" + levels(12).astype(">u2").tobytes(),
    "JPEG 2000": saved(levels(12), "JPEG2000", irreversible=False),
    "RGB": png16(colours(12)),
    "RGB, sBIT": png16(colours(9), 9, 9, 9),
    "RGBA": png16(with_alpha(colours(12))),
    "grey and alpha": png16(with_alpha(colours(12, 1))),
    "RGB of 16 bits": png16(colours(16)),
}


@pytest.mark.parametrize("name", FULL_RANGE)
def test_a_ramp_of_any_depth_becomes_a_ramp_from_black_to_white(name):
    pixels = decoded(FULL_RANGE[name])
    assert np.abs(pixels - np.round(255 * RAMP)[..., None]).max() <= 1


def test_a_dark_image_stays_dark_if_the_file_states_the_range():
    for content in (
        saved(levels(12) // 8, tiffinfo={281: 4095}),
        saved((RAMP / 8).astype(np.float32)),
        b"P5 64 64 4095\n" + (levels(12) // 8).astype(">u2").tobytes(),
        saved((levels(8) // 8) * 257),  # 8 bits that were widened
    ):
        assert abs(int(decoded(content).max()) - 32) <= 1


def test_floats_slightly_outside_0_to_1_are_clipped_and_nan_is_black():
    values = (1.06 * RAMP - 0.03).astype(np.float32)
    values[0, :3] = np.nan, np.inf, -np.inf
    pixels = decoded(saved(values))[..., 0]
    assert pixels[0, :3].tolist() == [0, 255, 0] and abs(int(pixels[32, 0]) - 127) <= 2
    assert not decoded(saved(np.full((4, 4), np.nan, np.float32))).any()


def test_the_full_range_of_16_bits_is_rounded_as_before():
    every = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    assert np.array_equal(decoded(saved(every))[..., 0], (every.astype(int) + 128) // 257)


def test_one_warning_names_file_and_range_and_stated_ranges_need_none(caplog):
    decoder = Decoder()
    decoded(saved(levels(12), tiffinfo={281: 4095}), decoder), decoded(png16(levels(16)), decoder)
    assert not caplog.records and decoder.deep.seen
    decoded(saved(levels(12)), decoder), decoded(saved(levels(10)), decoder)
    [record] = caplog.records
    assert "x.tif" in record.getMessage() and "range 0 to 4095" in record.getMessage()
    decoder = Decoder()
    decoded(saved(levels(8).astype(np.uint8)), decoder), decoded(png16(colours(16)), decoder)
    assert not decoder.deep.seen


def deep_folder(root, mode=np.uint16):
    for split in ("train", "test"):
        for number, name in enumerate(("cat", "dog")):
            (root / split / name).mkdir(parents=True)
            for row in range(4):
                values = np.roll(levels(12), 64 * row + number).astype(mode)
                Image.fromarray(values).save(root / split / name / f"{row}.tif")
    return root


def test_stored_and_streamed_deep_images_are_equal_with_any_number_of_workers(tmp_path):
    root = deep_folder(tmp_path / "data")
    stored = load_data(data=str(root))
    wanted = Images(stored.train, "image", "label", SIDE, home=stored.home)
    wanted = {wanted[row]["pixel_values"].numpy().tobytes() for row in range(8)}
    for workers in (0, 2):
        data = open_stream(root, num_examples=8)
        loader = loader_of(data, workers=workers, size=8)
        loader.dataset.transform = Images(stored.train, "image", "label", SIDE).transform
        [batch] = loader
        assert {image.numpy().tobytes() for image in batch["pixel_values"]} == wanted


@pytest.mark.parametrize("options", [(), ("--streaming", "--num_examples", 8)])
def test_a_run_warns_once_and_its_card_says_that_pipeline_sees_other_pixels(tmp_path, caplog, options):
    root = deep_folder(tmp_path / "data")
    recipe = recipe_of(tmp_path / "recipe.yaml", root)
    with caplog.at_level(logging.WARNING):
        assert start(recipe, "--output_dir", tmp_path / "run", *options) == 0
    assert sum("does not state the range" in record.getMessage() for record in caplog.records) == 1
    assert record_of(tmp_path / "run")["data"]["scaled_to_8_bits"] is True
    card = " ".join((tmp_path / "run" / "README.md").read_text().split())
    assert (
        "were scaled to 8 bits" in card and "`classify` clips them" in card and "to_rgb(PIL.Image.open(path))" in card
    )
    file = root / "test" / "dog" / "1.tif"
    [shown] = predict(tmp_path / "run", file, top_k=2, device="cpu")
    to_rgb(Image.open(file)).save(tmp_path / "scaled.png")
    [scaled] = predict(tmp_path / "run", tmp_path / "scaled.png", top_k=2, device="cpu")
    assert shown["classes"] == scaled["classes"]


def test_the_card_of_images_of_8_bits_says_nothing_about_scaling(tmp_path):
    assert start(recipe_of(tmp_path / "recipe.yaml", max_steps=1), "--output_dir", tmp_path / "run") == 0
    assert "8 bits" not in (tmp_path / "run" / "README.md").read_text()
    assert "scaled_to_8_bits" not in record_of(tmp_path / "run")["data"]


# ------------------------------------------------------------------------------------------------------------- formats


def eps():
    return saved(np.zeros((8, 8, 3), np.uint8), "EPS")


def test_no_format_that_needs_another_program_is_opened(monkeypatch):
    opened = []
    monkeypatch.setattr(EpsImagePlugin.EpsImageFile, "_open", lambda self: opened.append(self))
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_: opened.append("gs"))
    for content, name in ((eps(), "EPS"), (b"\x89HDF\r\n\x1a\n" + bytes(64), "HDF5"), (b"BUFR" + bytes(64), "BUFR")):
        with pytest.raises(ImageDecodeError, match=f"its format is {name}; opened are JPEG, PNG"):
            open_image(content)
    assert not opened and not {"EPS", "PDF", "WMF", "GRIB", "IPTC", "MPEG", "SPIDER"} & {*FORMATS}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", ["1.eps", "1.png"])
def test_an_eps_file_of_a_data_set_is_refused_by_name(tmp_path, monkeypatch, streaming, name):
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_: pytest.fail("Ghostscript was started"))
    root = deep_folder(tmp_path / "data", np.uint8)
    (root / "train" / "dog" / name).write_bytes(eps())
    data = load_data(data=str(root), streaming=streaming, **({"num_examples": 9} if streaming else {}))
    with pytest.raises(DataError, match=rf"train/dog/{name}.*\(its format is EPS"):
        list(loader_of(data, size=8)) if streaming else Images(data.train, "image", "label", 8).load()


def test_predict_skips_an_eps_file_by_name(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_: pytest.fail("Ghostscript was started"))
    assert start(recipe_of(tmp_path / "recipe.yaml", max_steps=1), "--output_dir", tmp_path / "run") == 0
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(eps())
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "b.AVIF")
    (tmp_path / "images" / "._b.jpg").write_bytes(b"resource fork of macOS")
    found = predict(tmp_path / "run", tmp_path / "images", device="cpu")
    assert [entry["file"] for entry in found] == [str(tmp_path / "images" / "b.AVIF")]
    assert "a.jpg is skipped: its format is EPS" in caplog.text and "._b" not in caplog.text


# --------------------------------------------------------------------------------------------------------- pixel limit


def test_max_pixels_raises_pillows_limit_and_the_error_names_it(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    large = saved(np.zeros((15, 15), np.uint8), "PNG")
    with pytest.raises(ImageDecodeError, match="more than 200 pixels; max_pixels raises this limit"):
        decoded(large)
    assert decoded(large, Decoder(max_pixels=225)).shape == (15, 15, 3)
    with pytest.raises(ImageDecodeError, match="15 x 15 pixels, more than max_pixels=224"):
        decoded(large, Decoder(max_pixels=224))


@pytest.mark.parametrize("options", [(), ("--streaming", "--num_examples", 8), ("--random_resized_crop", 0.5, 1)])
def test_max_pixels_of_a_recipe(tmp_path, monkeypatch, capsys, options):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    recipe = recipe_of(tmp_path / "recipe.yaml", deep_folder(tmp_path / "data", np.uint8))
    assert start(recipe, "--output_dir", tmp_path / "a", *options) == 2
    assert "max_pixels" in capsys.readouterr().err
    assert start(recipe, "--output_dir", tmp_path / "a", *options, "--max_pixels", 4096) == 0


def test_streams_in_workers_know_max_pixels(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    data = open_stream(deep_folder(tmp_path / "data", np.uint8), num_examples=8)
    with pytest.raises(DataError, match="max_pixels raises this limit"):
        list(loader_of(data, workers=1))
    assert torch.cat([batch["labels"] for batch in loader_of(data, workers=1, max_pixels=4096)]).sum() == 4
