"""MetaImages, `.mha`."""

from pathlib import Path

from fuzz.targets.small_images import arrays, image_seeds, read_as_everything

PLAIN = """ObjectType = Image
NDims = 3
BinaryData = True
BinaryDataByteOrderMSB = {msb}
CompressedData = False
TransformMatrix = 1 0 0 0 1 0 0 0 1
Offset = 1.5 -2 3
CenterOfRotation = 0 0 0
ElementSpacing = 2 2.5 3
DimSize = 6 5 4
AnatomicalOrientation = RAI
ElementType = {kind}
ElementDataFile = LOCAL
"""


def seeds() -> list[bytes]:
    """Compressed as the project writes them, and plain ones in both byte orders."""
    label, ct = (array.tobytes("F") for array in arrays()[:2])
    plain = [
        PLAIN.format(msb="False", kind="MET_UCHAR").encode() + label,
        PLAIN.format(msb="True", kind="MET_SHORT").encode() + ct,
    ]
    return [*image_seeds(".mha"), *plain]


def read(data: bytes, folder: Path) -> None:
    """Read it as image, label and header."""
    file = folder / "image.mha"
    file.write_bytes(data)
    read_as_everything(file)
