"""The site: it builds without a warning or a broken link, loads nothing from elsewhere, and says
what is true.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from qwen3lab import paths

DOCS = paths.ROOT / "docs"
LIBRARIES = Path(importlib.util.find_spec("transformers").origin).parent.parent
FEW = (
    "qwen3lab.course.claims",
    "qwen3lab.chat",
    "qwen3lab.exercises",
    "qwen3lab.from_scratch.awq",
)  # cheap to import; a paragraph of code, bars


def tool(name: str) -> ModuleType:
    """A module of docs/_ext, which is no package."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / "_ext" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


pages, links = tool("pages"), tool("links")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site with all notebooks and texts, and the pages of a few modules."""
    pytest.importorskip("myst_nb")
    pytest.importorskip("sphinx_book_theme")
    into = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, DOCS / "build.py", "--into", into, "--modules", *FEW],
        cwd=paths.ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, (
        done.stdout + done.stderr
    )  # Sphinx warns of nothing, and every link leads somewhere
    return into / "site"


def test_all_pages_are_there(site):
    names = {
        path.relative_to(site).as_posix()
        for path in site.rglob("*.html")
        if "_static" not in path.parts
    }
    assert names >= {f"notebooks/{name}.html" for name in pages.notebooks()} | {
        f"api/{name}.html" for name in FEW
    }
    assert names >= {f"{path.stem}.html" for path in DOCS.glob("*.md")} | {"search.html"}


def test_each_notebook_leads_to_itself_in_the_other_language(site):
    found = {path.relative_to(site).as_posix() for path in (site / "notebooks").rglob("*.html")}
    english = {f"notebooks/{name}.html" for name in pages.notebooks()}
    assert found == english | {name.replace("notebooks/", "notebooks/zh/") for name in english}
    for name in english:
        there = Path("notebooks", "zh", *Path(name).parts[1:])
        for page, twin, code in ((name, there, "zh-CN"), (there, name, "en")):
            text = (site / page).read_text(encoding="utf-8")
            assert f'<html lang="{"en" if page == name else "zh-CN"}"' in text
            links = re.findall(rf'<a hreflang="{code}"[^>]*href="([^"]+)"', text)
            links += re.findall(rf'<link rel="alternate" hreflang="{code}" href="([^"]+)"', text)
            assert len(links) == 2
            for link in links:
                assert ((site / page).parent / link).resolve() == (site / twin).resolve()


def test_nothing_is_loaded_from_elsewhere(site):
    """The checker looks at tags; scripts and style sheets could ask for more by themselves."""
    for path in site.rglob("*.html"):
        assert "mathjax" not in path.read_text(encoding="utf-8").lower()
    for path in site.rglob("*.css"):
        assert not re.search(
            r"(@import|url\()\s*[\"']?(https?:)?//", path.read_text(encoding="utf-8")
        ), path.name


def test_cells_have_places_outputs_and_formulas(site):
    for name, notebook in pages.notebooks().items():
        text = (site / "notebooks" / f"{name}.html").read_text(encoding="utf-8")
        assert all(
            f'id="{pages.anchor(name, cell.id).replace("_", "-")}"' in text
            for cell in notebook.cells
        )
        shown = sum(
            "image/png" in out.get("data", {})
            for cell in notebook.cells
            if cell.cell_type == "code"
            for out in cell.outputs
        )
        assert len(re.findall(r"<img alt=\"[^\"]{30,}\"", text)) == shown
    lora = (site / "notebooks" / "03_lora.html").read_text(encoding="utf-8")
    assert lora.count("<math ") > 10 and "$$" not in lora


def test_every_chart_is_described_by_its_function():
    known = pages.charts()
    assert known["by_digits"].startswith(
        "Share of right sums and tokens written, against the number of digits"
    )
    for name, notebook in pages.notebooks().items():
        for cell in notebook.cells:
            if cell.cell_type == "code" and any(
                "image/png" in out.get("data", {}) for out in cell.outputs
            ):
                assert pages.described(cell.source, known), (
                    f"{name}, {cell.id}: a chart without a known function"
                )


def test_tables_are_filled_in(site):
    for name in ("claims", "museum", "guide_map", "api"):
        article = re.search(
            r"(?s)<article.*?</article>", (site / f"{name}.html").read_text(encoding="utf-8")
        )[0]
        assert "<!--" not in article and article.count("<tr") + article.count("<li") > 4, name
    museum = (site / "museum.html").read_text(encoding="utf-8")
    exhibits = re.findall(
        r'"([^"]+)": \w+[,}]',
        (paths.ROOT / "qwen3lab" / "pitfalls" / "training.py")
        .read_text(encoding="utf-8")
        .split("EXHIBITS", 1)[1],
    )
    assert len(exhibits) >= 8 and not [
        name for name in exhibits if f"{name[0].upper()}{name[1:]}" not in museum
    ]
    assert museum.count("<img alt=") == 2


def test_every_public_module_gets_a_page():
    found = dict(pages.modules())
    there = {
        path.relative_to(paths.ROOT).as_posix()
        for path in (paths.ROOT / "qwen3lab").rglob("*.py")
        if path.stat().st_size
    }
    of = {
        f"{name.replace('.', '/')}{end}" for name in found for end in (".py", "/__init__.py")
    } & there
    assert {
        name for name in there - of if not re.search(r"/(__main__|ex\d\d|_\w+)\.py$", name)
    } == set()
    assert len(of) == len(found) and all(found.values())
    assert "qwen3lab.exercises.ex01" not in found  # its solutions


def test_docstrings_are_valid_text():
    """All of them, by the code that the site uses, but without importing the modules."""
    pytest.importorskip("sphinx")
    pytest.importorskip("latex2mathml")
    offline, faults = tool("offline"), []
    for path in sorted((paths.ROOT / "qwen3lab").rglob("*.py")):
        nodes = [
            node
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        ]
        fault = offline.fault(
            [docstring for node in nodes if (docstring := ast.get_docstring(node))]
        )
        faults += [f"{path.name}: {fault}"] if fault else []
    assert faults == []


@pytest.mark.parametrize(
    "text, terms",
    [
        ("帐篷的重量", ["帐篷", "篷的", "的重", "重量"]),
        ("微调 LoRA 与 r=16", ["微调", "LoRA", "与", "r", "16"]),
        ("Qwen3的词元", ["Qwen3", "的词", "词元"]),
        ("plain_text of <|im_end|>", ["plain_text", "of", "im_end"]),
    ],
)
def test_search_terms(text, terms):
    pytest.importorskip("sphinx")
    assert tool("offline").SearchBoth({}).split(text) == terms


def test_the_index_finds_both_languages(site):
    script = (site / "searchindex.js").read_text(encoding="utf-8")
    index = json.loads(script[script.index("(") + 1 : script.rindex(")")])

    def found(term: str) -> set[str]:
        places = [index[kind].get(term, []) for kind in ("terms", "titleterms")]
        return {
            index["docnames"][place]
            for some in places
            for place in ([some] if isinstance(some, int) else some)
        }

    assert "notebooks/03_lora" in found("adapt") and "glossary" in found("词元")
    assert {"notebooks/08_rag_knowledge_base"} <= found("帐篷") & found("重量")
    assert "notebooks/zh/06_evaluation" in found("困惑") & found("惑度")


@pytest.mark.parametrize(
    "page, fault",
    [
        ('<a href="other.html#here">x</a>', []),
        ('<a href="other.html#there">x</a>', ["index.html: other.html#there has no such place"]),
        ('<a href="missing.html">x</a>', ["index.html: missing.html leads nowhere"]),
        ('<a href="../outside.html">x</a>', ["index.html: ../outside.html leads nowhere"]),
        ('<a href="https://example.org">x</a><a href="#top" id="top">x</a>', []),
        (
            '<script src="https://example.org/x.js"></script>',
            ["index.html: loads https://example.org/x.js"],
        ),
        ('<link href="//example.org/x.css">', ["index.html: loads //example.org/x.css"]),
        ('<img src="a.png" alt=" ">', ["index.html: a picture without a text"]),
        ('<img src="b.png" alt="b">', ["index.html: b.png leads nowhere"]),
    ],
)
def test_the_checker_finds_what_is_wrong(tmp_path, page, fault):
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "other.html").write_text('<p id="here"></p>')
    (tmp_path / "index.html").write_text(page)
    (tmp_path.parent / "outside.html").write_text("")
    assert links.check(tmp_path) == fault


# Messages that Python itself makes, and how a learner comes to them.
def raised() -> dict[str, str]:
    """What the calls of old tutorials raise in the installed versions: message by what
    was tried."""
    import faiss
    import numpy as np
    import transformers
    import trl

    model = transformers.AutoModelForCausalLM.from_pretrained(paths.MODELS / "qwen3-tiny-draft")
    tries = {
        name: lambda name=name: transformers.TrainingArguments("unused", **{name: None})
        for name in (
            "warmup_ratio",
            "evaluation_strategy",
            "no_cuda",
            "group_by_length",
            "logging_dir",
        )
    }
    tries |= {
        "Trainer": lambda: transformers.Trainer(model=model, tokenizer=None),
        "max_seq_length": lambda: trl.SFTConfig("unused", max_seq_length=8),
        "SFTTrainer": lambda: trl.SFTTrainer(model=model, tokenizer=None),
        "load_in_4bit": lambda: transformers.AutoModelForCausalLM.from_pretrained(
            paths.MODELS / "qwen3-tiny-draft", load_in_4bit=True
        ),
        "faiss": lambda: faiss.IndexFlatIP(4).search(np.zeros(4, dtype="float32"), 1),
        "PyPDF2": lambda: exec("import PyPDF2"),
        "Qwen3Tokenizer": lambda: exec("from transformers import Qwen3Tokenizer"),
        "AdamW": lambda: exec("from transformers import AdamW"),
        "collator": lambda: exec("from trl import DataCollatorForCompletionOnlyLM"),
        "name": lambda: exec("never_defined"),
    }
    found = {}
    for name, attempt in tries.items():
        with pytest.raises((TypeError, ValueError, ImportError, NameError)) as caught:
            attempt()
        found[name] = str(caught.value)
    return found


def quoted() -> list[tuple[str, str]]:
    """(message, where it comes from) of every message on the page."""
    text = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```text\n(.*?)\n```\n\n\*From\* `([^`]+)`", text, re.DOTALL)
    assert len(blocks) == text.count("```text"), "each block of messages says where it comes from"
    return [(line, where) for block, where in blocks for line in block.splitlines()]


def written(where: str) -> list[str]:
    """The strings of a file, with … for what an f-string fills in."""
    if where == "Makefile":
        return (paths.ROOT / "Makefile").read_text(encoding="utf-8").splitlines()
    if where == "pip":
        path = (
            Path(importlib.util.find_spec("pip").origin).parent
            / "_internal"
            / "resolution"
            / "resolvelib"
            / "factory.py"
        )
    elif where.startswith("qwen3lab"):
        path = paths.ROOT / where.replace(".", "/")
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    else:
        path = LIBRARIES / where
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            found.append(
                "".join(
                    str(part.value) if isinstance(part, ast.Constant) else "…"
                    for part in node.values
                )
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value.replace("%s", "…").replace("{}", "…"))
    return found


def test_quoted_messages_are_real():
    python = raised()
    messages = quoted()
    assert len(messages) > 40
    for message, where in messages:
        if where == "python":
            pattern = re.escape(message).replace("…", ".+")
            assert any(re.match(pattern, text) for text in python.values()), message
        else:
            assert any(message.removesuffix("…") in text for text in written(where)), (
                f"{where}: {message}"
            )
    for text in python.values():
        assert any(
            where == "python" and re.match(re.escape(message).replace("…", ".+"), text)
            for message, where in messages
        ), text


def test_glossary():
    rows = [
        line.strip("| ").split(" | ")
        for line in (DOCS / "glossary.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("| ")
    ][1:]
    assert len(rows) >= 60 and all(len(row) == 3 for row in rows)
    assert all(
        re.search("[\u4e00-\u9fff]", chinese) and meaning.endswith(".")
        for _, chinese, meaning in rows
    )
    terms = [english.lower() for english, _, _ in rows]
    assert terms == sorted(set(terms))
