"""Check a built site for broken internal links, missing alt text and external resources."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "audio": "src",
    "video": "src",
    "embed": "src",
    "link": "href",
    "object": "data",
}


class _Page(HTMLParser):
    """A parser that collects a page's anchors (ids), its links and the resources that it loads."""

    def __init__(self, text: str):
        super().__init__()
        self.ids, self.links, self.loads, self.silent = set(), [], [], 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.ids |= {given[key] for key in ("id", "name") if given.get(key)}
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        if given.get(LOADED.get(tag, "")):
            self.loads.append(given[LOADED[tag]])
        self.silent += tag == "img" and not (given.get("alt") or "").strip()


def check(site: Path) -> list[str]:
    """Check the HTML files of a folder; returns one line per fault."""
    pages = {
        path.relative_to(site).as_posix(): _Page(path.read_text(encoding="utf-8"))
        for path in sorted(site.rglob("*.html"))
        if "_static" not in path.parts
    }
    found = []
    for name, page in pages.items():
        found += [f"{name}: a picture without a text"] * page.silent
        found += [
            f"{name}: loads {target}"
            for target in page.loads
            if urlsplit(target).scheme in ("http", "https") or target.startswith("//")
        ]
        for target in [*page.links, *page.loads]:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            path = (site / name).parent / unquote(parts.path) if parts.path else site / name
            path = path.resolve() / "index.html" if path.is_dir() else path.resolve()
            if not path.is_relative_to(site.resolve()) or not path.exists():
                found.append(f"{name}: {target} leads nowhere")
            elif (
                parts.fragment
                and path.suffix == ".html"
                and unquote(parts.fragment)
                not in pages[path.relative_to(site.resolve()).as_posix()].ids
            ):
                found.append(f"{name}: {target} has no such place")
    return found
