"""Build the site: stage the pages, run Sphinx on them and check every link.

`python docs/build.py`; needs no network.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]

from qwen3lab import paths  # noqa: E402


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code: 1 if Sphinx warns or a link is broken."""
    import links
    import pages
    from sphinx.cmd.build import main as sphinx

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--into", type=Path, default=paths.BUILD, help="folder for `site` and what it is made from"
    )
    parser.add_argument(
        "--modules", nargs="*", help="only these modules get a page (for a quick look)"
    )
    args = parser.parse_args(argv)
    source, site = args.into / "site-src", args.into / "site"
    pages.stage(source, args.modules)
    shutil.rmtree(site, ignore_errors=True)
    failed = sphinx(
        [
            "-q",
            "-W",
            "--keep-going",
            "-E",
            "-b",
            "html",
            "-c",
            str(HERE),
            "-d",
            str(args.into / "site-cache"),
            str(source),
            str(site),
        ]
    )
    broken = links.check(site)
    print(
        "\n".join(broken)
        or f"{len(list(site.rglob('*.html')))} pages, no broken link: {site.name}/index.html"
    )
    return 1 if failed or broken else 0


if __name__ == "__main__":
    sys.exit(main())
