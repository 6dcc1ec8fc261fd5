"""Small PDFs written by hand, so that a test says exactly what stands where on a page."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

FONT = "<< /Type /Font /Subtype /Type1 /BaseFont /{} /Encoding /WinAnsiEncoding >>"
FONTS = {"F1": FONT.format("Helvetica"), "F2": FONT.format("Helvetica-Bold")}


def text(x: float, y: float, what: str, size: float = 11, font: str = "F1", turned: int = 0) -> str:
    """The operators that print a text at (x, y), in one of the four directions."""
    a, b, c, d = {0: (1, 0, 0, 1), 90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}[
        turned
    ]
    raw = "".join(f"\\{c}" if c in "()\\" else c for c in what)
    return f"BT /{font} {size} Tf {a} {b} {c} {d} {x} {y} Tm ({raw}) Tj ET\n"


def stream(data: str | bytes, entries: str = "") -> bytes:
    raw = data.encode("latin-1") if isinstance(data, str) else data
    return f"<< {entries} /Length {len(raw)} >>\nstream\n".encode() + raw + b"\nendstream"


def write(
    path: Path,
    contents: Iterable[str | bytes],
    *,
    page: str = "",
    root: str = "",
    objects: Iterable[str | bytes] = (),
    fonts: dict[str, str] = FONTS,
    pictures: str = "",
    size: tuple[int, int] = (400, 600),
) -> Path:
    """Write a PDF with a page for each content stream and return the path.

    `objects` come first, as numbers 1, 2 ...; `page` and `root` are entries of every page's and of
    the root's dictionary, and `pictures` those of the drawings that pages use.
    """
    bodies = [body.encode("latin-1") if isinstance(body, str) else body for body in objects]
    contents = list(contents)
    tree = len(bodies) + 2 * len(contents) + 1
    named = " ".join(f"/{name} {font}" for name, font in fonts.items())
    kids = []
    for content in contents:
        bodies.append(stream(content))
        kids.append(len(bodies) + 1)
        bodies.append(
            f"<< /Type /Page /Parent {tree} 0 R /MediaBox [0 0 {size[0]} {size[1]}]"
            f" /Contents {len(bodies)} 0 R {page}"
            f" /Resources << /Font << {named} >> /XObject << {pictures} >> >> >>".encode()
        )
    listed = " ".join(f"{kid} 0 R" for kid in kids)
    bodies.append(f"<< /Type /Pages /Count {len(kids)} /Kids [{listed}] >>".encode())
    bodies.append(f"<< /Type /Catalog /Pages {tree} 0 R {root} >>".encode("latin-1"))
    out, places = bytearray(b"%PDF-1.7\n"), []
    for number, body in enumerate(bodies, start=1):
        places.append(len(out))
        out += f"{number} 0 obj\n".encode() + body + b"\nendobj\n"
    start = len(out)
    out += f"xref\n0 {len(bodies) + 1}\n0000000000 65535 f \n".encode()
    out += b"".join(f"{place:010} 00000 n \n".encode() for place in places)
    out += (
        f"trailer << /Size {len(bodies) + 1} /Root {len(bodies)} 0 R >>\n"
        f"startxref\n{start}\n%%EOF\n"
    ).encode()
    path.write_bytes(out)
    return path
