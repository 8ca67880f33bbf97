"""A grid of images, with a title beside each row and lines of text below each image."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..trainer.sample_grid import scaled

SIDE = 128  # pixels of the longer side of an image, about
FONT_SIZE, LINE = 12, 16  # pixels
GAP = 8  # pixels between images
PAPER, INK, FRAME = "white", "black", "silver"


@dataclass(frozen=True)
class Row:
    """Images (B, 3, H, W) in [0, 1], and the lines of text below each; none below images without an entry."""

    title: str
    images: Tensor
    texts: Sequence[Sequence[str]] = ()


def labelled_grid(heading: Sequence[str], rows: Sequence[Row]) -> Image.Image:
    """The picture of the rows below the lines of the heading."""
    font = ImageFont.load_default(FONT_SIZE)
    left = max(round(font.getlength(row.title)) for row in rows) + 2 * GAP
    pictures = [[_picture(image) for image in _scaled_to_side(row.images)] for row in rows]
    heights = [_height(row, images) for row, images in zip(rows, pictures)]
    width = left + max(sum(image.width + GAP for image in images) for images in pictures)
    heading = [_fitted(line, width - 2 * GAP, font) for line in heading]
    top = LINE * len(heading) + 2 * GAP
    canvas = Image.new("RGB", (width, top + sum(heights)), PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.multiline_text((GAP, GAP), "\n".join(heading), INK, font, spacing=LINE - FONT_SIZE)
    for row, images, height in zip(rows, pictures, heights):
        draw.text((GAP, top), row.title, INK, font)
        for column, image in enumerate(images):
            place = left + column * (image.width + GAP)
            canvas.paste(image, (place, top))
            draw.rectangle((place - 1, top - 1, place + image.width, top + image.height), outline=FRAME)
            for number, text in enumerate(row.texts[column] if column < len(row.texts) else ()):
                under = (place, top + image.height + 2 + number * LINE)
                draw.text(under, _fitted(text, image.width + GAP - 2, font), INK, font)
        top += height
    return canvas


def _scaled_to_side(x: Tensor) -> Tensor:
    size = max(x.shape[-2:])
    return scaled(x, max(1, round(SIDE / size)) if size <= SIDE else SIDE / size)


def _picture(image: Tensor) -> Image.Image:
    return Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy())


def _height(row: Row, images: list[Image.Image]) -> int:
    lines = max(map(len, row.texts), default=0)
    return images[0].height + lines * LINE + GAP


def _fitted(text: str, width: float, font: ImageFont.FreeTypeFont) -> str:
    """The text, cut to `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}...") > width:
        text = text[:-1]
    return f"{text}..."
