"""`make platforms`: ask the package index whether the course and its tests install from wheels
alone, on four kinds of machine and two versions of Python.

uv resolves pyproject.toml with the pins of constraints.txt as if it ran there. Nothing is
installed, and nothing was tried on such a machine: a wheel that is there can still fail. The
packages in `SOURCES` have no wheels anywhere; they are plain Python, so that no compiler is needed.
Ends with 1 where a platform cannot be resolved.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Sequence

from qwen3lab import paths

PLATFORMS = {
    "Linux x86-64": "x86_64-unknown-linux-gnu",
    "Linux arm64": "aarch64-unknown-linux-gnu",
    "macOS arm64, from 14": "aarch64-apple-darwin",
    "Windows x86-64": "x86_64-pc-windows-msvc",
}
PYTHONS = ("3.11", "3.13")
EXTRAS = ("test", "site")  # what `make test` installs
SOURCES = ("rouge-score", "sqlitedict", "word2number")


def command(python: str, platform: str, extras: Sequence[str]) -> list[str]:
    """Return uv's command for one platform."""
    return [
        *(sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml"),
        *(word for extra in extras for word in ("--extra", extra)),
        *("-c", "constraints.txt", "--python-version", python, "--python-platform", platform),
        *("--only-binary", ":all:", "--no-header", "--no-annotate", "--quiet"),
        *(word for name in SOURCES for word in ("--no-binary", name)),
    ]


def resolve(python: str, platform: str, extras: Sequence[str]) -> tuple[int, str]:
    """Resolve for one platform and return (number of packages, "") or (0, why it fails)."""
    done = subprocess.run(
        command(python, platform, extras),
        cwd=paths.ROOT,
        env=os.environ | {"MACOSX_DEPLOYMENT_TARGET": "14.0"},  # torch's wheels say so
        capture_output=True,
        text=True,
    )
    if done.returncode:
        why = " ".join(done.stderr.split())
        return 0, why.partition("cause: ")[2] or why or f"uv ended with {done.returncode}"
    return sum("==" in line for line in done.stdout.splitlines()), ""


def table(ask: Callable[..., tuple[int, str]], extras: Sequence[str] = EXTRAS) -> tuple[str, int]:
    """Ask for every platform and return the table and how many of them resolve."""
    lines, reasons, good = [f"{'machine':<22}{'Python':<8}packages"], [], 0
    for name, platform in PLATFORMS.items():
        for python in PYTHONS:
            count, why = ask(python, platform, extras)
            good += not why
            lines.append(f"{name:<22}{python:<8}{'none' if why else count}")
            reasons += [f"{name}, Python {python}: {why}"] if why else []
    lines += [
        f"{good} of {len(PLATFORMS) * len(PYTHONS)} resolve from wheels, but for"
        f" {', '.join(SOURCES)}, which are plain Python",
        *reasons,
    ]
    return "\n".join(lines), good


def main() -> int:
    """Print the table; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--extras", nargs="*", default=EXTRAS, help="of pyproject.toml; default: test and site"
    )
    told, good = table(resolve, parser.parse_args().extras)
    print(told)
    return 0 if good == len(PLATFORMS) * len(PYTHONS) else 1


if __name__ == "__main__":
    sys.exit(main())
