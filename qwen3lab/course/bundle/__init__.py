"""Bundle the course for offline use: pinned wheels, models, data and notebooks in one archive."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlparse

from qwen3lab import paths
from qwen3lab.errors import Qwen3labError

# The parts of the course in the archive: an explicit list, so that no stray file in the folder is
# distributed.
FOLDERS = (
    *("qwen3lab", "scripts", "notebooks", "locales", "data", "docs", "docker", "tests"),
    "benchmarks",
)
FILES = (
    "README.md",
    "LICENSE",
    "CONTRIBUTING.md",
    "Makefile",
    "pyproject.toml",
    "constraints.txt",
    "constraints-gptq.txt",
    "constraints-vllm.txt",
    "environment.yml",
    "conftest.py",
    ".gitignore",
)
LEFT_OUT = {"__pycache__", ".ipynb_checkpoints"}
TOP = "qwen3lab-bundle"  # the single folder that the archive unpacks into
SAME_DATE = (2020, 1, 1, 0, 0, 0)  # reproducible: the same files give the same archive
# disk space as a multiple of the archive's bytes: packed, unpacked and installed; `try_out` prints
# the measured value
ROOM = 6
STORED = {".whl", ".safetensors", ".png", ".pdf", ".gguf"}  # already compressed, or incompressible

README = """# qwen3lab without a network

This folder holds the whole course: the notebooks, the package, the tiny models, the data, and
the wheels of every library.
It was made for Python {python} on {system} {machine}; Python itself has to be on the
machine. About {room:.1f} GB of disk are needed.

    python3 install.py

makes the environment course/.venv from the folder wheels alone: pip is told to ask
no index. It takes a few minutes. Then, in the folder course:

    {programs}/jupyter lab --notebook-dir=notebooks
    {programs}/qwen3lab run 03
    {programs}/qwen3lab doctor

If `make` is there, `make lab` and `make course` work too, and install nothing more; `make test`
needs a network.
"""


@dataclass(frozen=True)
class Bundle:
    """A written archive: path, size in bytes, number of files and number of wheels."""

    path: Path
    bytes: int
    files: int
    wheels: int


def make(
    out: Path | None = None,
    wheels: Path | None = None,
    root: Path | None = None,
    say: Callable[[str], None] = print,
) -> Bundle:
    """Write the archive of the course for machines like this one.

    Args:
        out: the zip file; default: `build/qwen3lab-bundle.zip`.
        wheels: a folder of wheels to take all packages from, without asking an index; default:
            `build/wheels`, into which pip first collects what is missing, building wheels of
            packages that come as source.
        root: the course's folder.
        say: receives one line per step.
    Raises:
        Qwen3labError: pip could not collect a package, the wheels do not fit together, or the file
            cannot be written.
    """
    root = root or paths.ROOT
    out = Path(out or root / "build" / f"{TOP}.zip")
    folder = Path(wheels) if wheels else root / "build" / "wheels"
    if wheels and not folder.is_dir():
        raise Qwen3labError(
            f"There is no folder {folder.name!r} with wheels. Give another one, or leave the option"
            " out."
        )
    if not wheels:
        say(
            "pip collects the wheels of all pinned packages (some hundred MB; the second time it"
            " has them)"
        )
        folder.mkdir(parents=True, exist_ok=True)
        _pip(
            "wheel",
            "--wheel-dir",
            str(folder),
            "--find-links",
            str(folder),
            "-c",
            str(root / "constraints.txt"),
            *requirements(root),
        )
    say("pip checks, without an index, that they install together")
    chosen = resolve(folder, root)
    say(f"{len(chosen)} wheels and the course go into {out.name}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        draft = out.with_name(out.name + ".part")
        with zipfile.ZipFile(draft, "w") as archive:
            for name, content in _members(root, chosen):
                _add(archive, name, content)
        os.replace(draft, out)
    except OSError as error:
        raise Qwen3labError(
            f"The archive {out.name!r} could not be written ({error.strerror}). Give another place"
            " with --out."
        ) from error
    with zipfile.ZipFile(out) as archive:
        return Bundle(out, out.stat().st_size, len(archive.namelist()), len(chosen))


def requirements(root: Path) -> list[str]:
    """List what pip must install: build requirements and dependencies."""
    read = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    project = read["project"]
    return [*read["build-system"]["requires"], *project.get("dependencies", [])]


def resolve(folder: Path, root: Path) -> list[Path]:
    """Resolve offline which wheels of a folder pip would install for the course.

    Returns their paths, sorted. Raises Qwen3labError if one is missing or exists only as source.
    """
    with tempfile.TemporaryDirectory() as place:
        report = Path(place) / "report.json"
        _pip(
            "install",
            "--dry-run",
            "--ignore-installed",
            "--no-index",
            "--find-links",
            str(folder),
            "--only-binary",
            ":all:",
            "--report",
            str(report),
            "-c",
            str(root / "constraints.txt"),
            *requirements(root),
            own_settings=True,
        )
        found = json.loads(report.read_text(encoding="utf-8"))["install"]
    return sorted(Path(unquote(urlparse(item["download_info"]["url"]).path)) for item in found)


def _pip(*arguments: str, own_settings: bool = False) -> None:
    """Run pip; with `own_settings`, without any of the machine's pip settings.

    Raises Qwen3labError with pip's most telling error line.
    """
    environment = dict(os.environ)
    if own_settings:
        environment = {
            key: value for key, value in environment.items() if not key.startswith("PIP_")
        } | {"PIP_CONFIG_FILE": os.devnull}
    command = [sys.executable, "-m", "pip", *arguments, "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        errors = [
            line.removeprefix("ERROR: ")
            for line in done.stderr.splitlines()
            if line.startswith("ERROR")
        ] or done.stderr.splitlines()
        telling = (
            line
            for line in errors
            if line.startswith(("No matching distribution", "Cannot install"))
        )
        lacks = next(telling, (errors or ["it gave no reason"])[-1])
        advice = (
            "Put the missing wheels into the folder"
            if own_settings
            else "Connect to the network, or put the wheel into build/wheels"
        )
        raise Qwen3labError(f"pip {arguments[0]} failed ({lacks.rstrip('.')}). {advice}.")


def made_for() -> dict[str, str]:
    """Return what a machine must have in common with this one to use its wheels."""
    return {
        "python": "{}.{}".format(*platform.python_version_tuple()),
        "system": platform.system(),
        "machine": platform.machine(),
    }


def _members(root: Path, wheels: list[Path]) -> Iterator[tuple[str, Path | str]]:
    """Yield (name in the archive, file or text) of all that goes in."""
    course = list(course_files(root))
    room = ROOM * sum(path.stat().st_size for path in [*wheels, *course]) / 1e9
    programs = ".venv\\Scripts" if os.name == "nt" else ".venv/bin"
    yield "README.md", README.format(**made_for(), room=room, programs=programs)
    yield "made_for.json", json.dumps(made_for(), indent=1) + "\n"
    yield "install.py", Path(__file__).with_name("install.py")
    for path in course:
        yield f"course/{path.relative_to(root).as_posix()}", path
    for path in wheels:
        yield f"wheels/{path.name}", path


def course_files(root: Path) -> Iterator[Path]:
    """Yield the files of the course that are distributed, in order."""
    for name in FILES:
        if (root / name).is_file():
            yield root / name
    for name in FOLDERS:
        yield from sorted(
            path
            for path in (root / name).rglob("*")
            if path.is_file() and not LEFT_OUT & set(path.relative_to(root).parts)
        )


def _add(archive: zipfile.ZipFile, name: str, content: Path | str) -> None:
    entry = zipfile.ZipInfo(str(PurePosixPath(TOP, name)), SAME_DATE)
    entry.external_attr = 0o644 << 16
    entry.compress_type = (
        zipfile.ZIP_STORED if Path(name).suffix in STORED else zipfile.ZIP_DEFLATED
    )
    archive.writestr(entry, content.read_bytes() if isinstance(content, Path) else content)


def try_out(
    archive: Path,
    notebook: str = "01",
    folder: Path | None = None,
    say: Callable[[str], None] = print,
) -> float:
    """Test an archive: unpack and install it offline, run one notebook, and return its seconds.

    It is unpacked into an empty folder, and pip's index is off. Every proxy that a program might
    use points at a closed port, so that any request that leaves the machine fails.

    Args:
        notebook: which one, for example "01".
        folder: where; default: a temporary folder. A folder inside it is used and removed again.
    Raises:
        Qwen3labError: a step failed; the message has its last line.
    """
    closed = {f"{kind}_proxy": "http://127.0.0.1:9" for kind in ("http", "https", "all")}
    environment = (
        os.environ
        | closed
        | {key.upper(): value for key, value in closed.items()}
        | {"HF_HUB_OFFLINE": "1"}
    )
    for name in ("PYTHONPATH", "VIRTUAL_ENV", "QWEN3LAB_HOME", "QWEN3LAB_MODELS"):
        environment.pop(name, None)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(place)
        top = Path(place) / TOP
        programs = top / "course" / ".venv" / ("Scripts" if os.name == "nt" else "bin")
        say("unpacked; installing")
        run_step([sys.executable, "install.py"], top, environment, say)
        room = sum(path.lstat().st_size for path in top.rglob("*")) + archive.stat().st_size
        say(
            f"installed, {room / 1e9:.2f} GB with the archive, {room / archive.stat().st_size:.1f}"
            f" times its bytes; running notebook {notebook}"
        )
        return run_step(
            [str(programs / "qwen3lab"), "run", notebook], top / "course", environment, say
        )


def run_step(
    command: list[str], folder: Path, environment: dict[str, str], say: Callable[[str], None]
) -> float:
    """Run a program, pass on its output line by line, and return its seconds."""
    began, last = time.perf_counter(), "it said nothing"
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        for line in process.stdout:
            last = line.strip() or last
            say("  " + line.rstrip())
    if process.returncode:
        program = Path(command[1] if command[0] == sys.executable else command[0]).name
        raise Qwen3labError(
            f"{program} failed in the unpacked bundle ({last.rstrip('.')}). Look at its lines"
            " above."
        )
    return time.perf_counter() - began
