"""Names what a file holds by its first bytes, for files that turn out not to be an image."""

from __future__ import annotations

import os
import re

from PIL import features

from gaal_fast.data.images.archive import open_file

_HEAD = 4096
_CONVERT = "convert it to PNG or JPEG"

# First bytes -> what it is. Formats that Pillow reads are absent: of those it says itself what is
# damaged.
_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\x93NUMPY", "a NumPy array (.npy); save it as PNG or TIFF"),
    (
        b"version https://git-lfs.github.com/spec",
        "a git-LFS pointer; fetch the file itself with: git lfs pull",
    ),
    (
        b"version https://hawser.github.com/spec",
        "a git-LFS pointer; fetch the file itself with: git lfs pull",
    ),
    (b"%PDF-", f"a PDF; {_CONVERT}"),
    (b"%!PS", f"PostScript; {_CONVERT}"),
    (b"\xc5\xd0\xd3\xc6", f"PostScript (EPS); {_CONVERT}"),
    (b"PK\x03\x04", "a zip archive (or a document or .npz that is one); unpack it"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"\x1f\x8b", "gzip-compressed; unpack it"),
    (b"BZh", "bzip2-compressed; unpack it"),
    (b"\xfd7zXZ\x00", "xz-compressed; unpack it"),
    (b"\x28\xb5\x2f\xfd", "Zstandard-compressed; unpack it"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it"),
    (b"Rar!\x1a\x07", "a RAR archive; unpack it"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file; save its images as PNG or TIFF"),
    (b"SIMPLE  =", "a FITS file; save it as PNG or TIFF"),
    (b"MATLAB 5.0 MAT-file", "a MATLAB file; save its images as PNG or TIFF"),
    (b"PAR1", "a Parquet table"),
    (b"NRRD000", "an NRRD volume; save its slices as PNG or TIFF"),
    (b"\x00\x00\x00\x0cJXL \r\n\x87\n", f"JPEG XL; {_CONVERT}"),
    (b"\xff\x0a", f"JPEG XL; {_CONVERT}"),
    (b"II\xbc", f"JPEG XR; {_CONVERT}"),
    (b"BPG\xfb", f"BPG; {_CONVERT}"),
    (b"\x76\x2f\x31\x01", f"OpenEXR; {_CONVERT}"),
    (b"#?RADIANCE", f"Radiance HDR; {_CONVERT}"),
    (b"gimp xcf", f"a GIMP document; {_CONVERT}"),
    (b"FUJIFILMCCD-RAW", f"a camera raw file; {_CONVERT}"),
    (b"IIRO", f"a camera raw file; {_CONVERT}"),
    (b"IIRS", f"a camera raw file; {_CONVERT}"),
    (b"IIU\x00", f"a camera raw file; {_CONVERT}"),
    (b"\x1aE\xdf\xa3", "a video (Matroska or WebM); save a frame of it as PNG or JPEG"),
    (b"FLV\x01", "a video (Flash); save a frame of it as PNG or JPEG"),
    (b"\x00\x00\x01\xba", "a video (MPEG); save a frame of it as PNG or JPEG"),
    (b"\x00\x00\x01\xb3", "a video (MPEG); save a frame of it as PNG or JPEG"),
    (b"0&\xb2u\x8ef\xcf\x11", "a video (Windows Media); save a frame of it as PNG or JPEG"),
    (b"ID3", "audio (MP3)"),
    (b"OggS", "audio or video (Ogg)"),
    (b"fLaC", "audio (FLAC)"),
    (
        b"\x00\x05\x16\x07",
        "the side file that macOS writes (AppleDouble, ._name); the image is beside it",
    ),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a Microsoft Office document"),
    (b"\x4c\x00\x00\x00\x01\x14\x02\x00", "a Windows shortcut (.lnk)"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a Windows program"),
)
_BRANDS = (
    (("avif", "avis"), f"AVIF, which this Pillow does not read; {_CONVERT}"),
    (
        ("heic", "heix", "heim", "heis", "hevc", "hevx", "hevm", "mif1", "mif2", "msf1"),
        f"HEIC/HEIF, which Pillow does not read; {_CONVERT}",
    ),
    (("crx ",), f"a camera raw file (CR3); {_CONVERT}"),
)
# What stands first in a text, in lower case.
_MARKUP = (
    (
        r"(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*(<!doctype svg[^>]*>\s*)?<svg",
        f"SVG, a vector drawing; {_CONVERT}",
    ),
    (
        r"(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<(!doctype html|html|head|body)",
        "HTML (an error or log-in page?), not an image; download it again",
    ),
    (r"<", "XML or HTML, not an image"),
    (r"data:image/", "a data URI in a text file; write the bytes that it encodes"),
    (r"https?://", "a text file with a web address; download what it points to"),
    (r"[{\[]\s*[\"'{\[\]}0-9]", "JSON, not an image"),
)


def name_content(path: str | os.PathLike) -> str | None:
    """What a file is that is no image, with the remedy where there is one; None where its bytes do
    not say."""
    try:
        with open_file(path) as file:
            head = file.read(_HEAD)
    except OSError:
        return None
    return _name(head)


def _name(head: bytes) -> str | None:
    if not head:
        return "the file is empty"
    if not head.strip(b"\0") and len(head) >= 16:
        return "the file holds zero bytes only (a download or copy that was cut off?)"
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    if head[128:132] == b"DICM" or re.match(
        rb"[\x02\x08]\0[\0-\x20]\0([A-Z]{2}|.{2}\0\0)", head, re.DOTALL
    ):
        return "DICOM, which Pillow does not read; save it as PNG or TIFF"
    if head[4:8] == b"ftyp":
        brands = {
            head[8:12].decode("latin-1"),
            *(head[i : i + 4].decode("latin-1") for i in range(16, min(64, len(head)), 4)),
        }
        if brands & set(_BRANDS[0][0]) and features.check("avif"):
            return None
        found = next((name for known, name in _BRANDS if brands & set(known)), None)
        return found or "a video (MP4 or QuickTime); save a frame of it as PNG or JPEG"
    if head.startswith(b"RIFF") and head[8:12] in (b"AVI ", b"WAVE"):
        return (
            "a video (AVI); save a frame of it as PNG or JPEG"
            if head[8:12] == b"AVI "
            else "audio (WAVE)"
        )
    if head[257:262] == b"ustar":
        return "a tar archive; unpack it"
    if head[344:348] in (b"n+1\0", b"ni1\0"):
        return "a NIfTI volume; save its slices as PNG or TIFF"
    if re.match(rb"\x80[\x02-\x05].", head, re.DOTALL):
        return "a Python pickle; save its images as PNG or TIFF"
    if head[:4] in (b"II*\0", b"MM\0*"):
        return None
    return _name_text(head)


def _name_text(head: bytes) -> str | None:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = head[: len(head) // 2 * 2].decode("utf-16", "replace")
    else:
        try:
            # The last character may have been cut.
            text = (
                head.decode("utf-8-sig")
                if len(head) < _HEAD
                else head[:-4].decode("utf-8-sig", "ignore")
            )
        except UnicodeDecodeError:
            return None
    if re.search(r"[\0-\x08\x0e-\x1a\x7f]", text):
        return None
    start = text.lstrip()
    for pattern, name in _MARKUP:
        if re.match(pattern, start.lower(), re.DOTALL):
            return name
    begins = " ".join(start[:40].split())
    return f'a text file (it begins "{begins}")' if begins else "a file of blanks only"
