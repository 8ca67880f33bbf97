"""Decoding of encoded images to RGB, with Pillow's formats that need no other program."""

import struct
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from io import BytesIO

from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from .image_paths import ImageDecodeError, embedded_bytes, read_image_file
from .pixel_range import DeepImages, PixelRange, colours_of_8_bits, eight_bits, is_deep, low_bytes, stated_range

# Pillow decodes these itself. EPS starts Ghostscript, IPTC contains files of any format, and others need handlers.
FORMATS = tuple(
    """JPEG PNG WEBP TIFF GIF BMP AVIF JPEG2000 MPO PPM DIB DDS FITS ICNS ICO IM MSP PCX PIXAR PSD QOI SGI SUN TGA XBM
    XPM""".split()
)


@dataclass(frozen=True)
class Decoder:
    """Decodes the cells of an Image column.

    `home`: see `read_image_file`. `max_pixels`: of an image; if None, Pillow's limit. `deep`: of the run.
    """

    home: str | None = None
    max_pixels: int | None = None
    deep: DeepImages = field(default_factory=DeepImages)

    def __call__(self, cell: dict | None, where: str) -> Image.Image:
        """The RGB image of an encoded cell `{"bytes", "path"}`; `where` names it, for a warning.

        Raises ImageDecodeError, or a DataError for a path outside `home`.
        """
        content = _content(cell, self.home)
        try:
            image, found = rgb_and_range(open_image(content, self.max_pixels))
        except (MemoryError, ImageDecodeError):
            raise
        except Image.DecompressionBombError as error:  # of a frame, too
            limit = self.max_pixels or 2 * Image.MAX_IMAGE_PIXELS
            raise ImageDecodeError(f"it has more than {limit:,} pixels; max_pixels raises this limit") from error
        except Exception as error:  # PIL raises nearly any exception on broken files: OSError, struct.error ...
            raise ImageDecodeError(f"{type(error).__name__}: {error}") from error
        if found is not None:
            self.deep.add(found, where)
        return image


def _content(cell: dict | None, home: str | None) -> bytes:
    if not cell or (cell.get("bytes") is None and cell.get("path") is None):
        raise ImageDecodeError("the cell is empty")
    if cell.get("bytes") is None:
        return read_image_file(cell["path"], home)
    return embedded_bytes(cell["bytes"])


def open_image(content: bytes, max_pixels: int | None = None) -> Image.Image:
    """The image in an encoded file, not loaded yet. ImageDecodeError for other formats than FORMATS.

    `max_pixels`: of the image. It raises Pillow's limit for this process, unless it is smaller than that.
    """
    if max_pixels is not None and max_pixels > (Image.MAX_IMAGE_PIXELS or max_pixels):
        Image.MAX_IMAGE_PIXELS = max_pixels
    try:
        image = Image.open(BytesIO(content), formats=_formats())
    except UnidentifiedImageError as error:
        raise ImageDecodeError(_unknown(content)) from error
    if max_pixels is not None and image.width * image.height > max_pixels:
        size = f"{image.width} x {image.height}"
        raise ImageDecodeError(f"it has {size} pixels, more than max_pixels={max_pixels:,}; raise max_pixels")
    return image


@cache
def _formats() -> tuple[str, ...]:
    """The FORMATS of the installed Pillow."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _unknown(content: bytes) -> str:
    """Why content cannot be opened: its format is not one of FORMATS, or is not known."""
    for name, (_, accept) in Image.OPEN.items():
        with suppress(SyntaxError, IndexError, TypeError, struct.error):
            if name not in FORMATS and accept is not None and accept(content[:16]) is True:
                return f"its format is {name}; opened are JPEG, PNG, TIFF and others that need no further program"
    return f"{len(content)} bytes in no known image format"


def to_rgb(image: Image.Image) -> Image.Image:
    """The image in RGB, with its EXIF orientation applied.

    As in `transformers.pipeline`, PIL's `convert("RGB")` drops an alpha channel and does not composite on a background.
    One exception: images of more than 8 bits (PIL modes I;16, I and F, and dark 16-bit colours) are scaled to 8 bits by
    the range of values that the file states, or else by that which the values fill, because PIL would clip every value
    above 255 to white and show floats up to 1 as black.
    """
    return rgb_and_range(image)[0]


def rgb_and_range(image: Image.Image) -> tuple[Image.Image, PixelRange | None]:
    """`to_rgb` of an image, and the range of values that was scaled to 8 bits, if it was."""
    low = low_bytes(image)
    stated = stated_range(image) if low is not None or is_deep(image) else None
    # Load now, so that a broken file raises inside `decode`. Steps that change nothing are skipped: PIL would copy.
    image = _upright(image)
    found = None
    if low is not None:
        image, found = colours_of_8_bits(image, _upright(low), stated)
    elif is_deep(image):
        image, found = eight_bits(image, stated)
    if image.mode == "P" and "transparency" in image.info:
        # convert("RGB") alone gives the same pixels, but PIL warns.
        image = image.convert("RGBA")
    return (image if image.mode == "RGB" else image.convert("RGB")), found


def _upright(image: Image.Image) -> Image.Image:
    image.load()
    return image if image.getexif().get(ExifTags.Base.Orientation) is None else ImageOps.exif_transpose(image)
