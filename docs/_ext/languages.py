"""Link each page that there is in both languages to the other one, for readers and for machines."""

from __future__ import annotations

from sphinx.application import Sphinx

CHINESE = "zh-CN"


def other(page: str) -> str:
    """Name the same page in the other language: notebooks/03_lora and notebooks/zh/03_lora."""
    if page in ("index", "zh"):
        return "zh" if page == "index" else "index"
    folder, _, name = page.partition("/")
    if folder != "notebooks":
        return ""
    return f"notebooks/{name[3:] if name.startswith('zh/') else 'zh/' + name}"


def link(app: Sphinx, page: str, template: str, context: dict, doctree: object) -> None:
    """Add the switch above the page, the alternates to its head, and its own language."""
    twin = other(page)
    if twin not in app.env.found_docs:
        return
    chinese = page == "zh" or page.startswith("notebooks/zh/")
    pages = {CHINESE: page if chinese else twin, "en": twin if chinese else page}
    context["language"] = CHINESE if chinese else "en"
    context["metatags"] = context.get("metatags", "") + "".join(
        f'\n<link rel="alternate" hreflang="{code}" href="{context["pathto"](name)}" />'
        for code, name in pages.items()
    )
    code, word = ("en", "English") if chinese else (CHINESE, "中文")
    context["body"] = (
        f'<p class="languages"><a hreflang="{code}" lang="{code}"'
        f' href="{context["pathto"](twin)}">{word}</a></p>\n{context["body"]}'
    )


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the links with Sphinx."""
    app.connect("html-page-context", link)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
