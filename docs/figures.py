"""Copy the README's charts out of the executed notebooks: `python docs/figures.py`."""

import base64
from pathlib import Path

import nbformat

from qwen3lab import paths

CHARTS = {
    "lora": ("03_lora", "forget-chart"),
    "five-systems": ("08_rag_knowledge_base", "rag-chart"),
}  # file: notebook, cell id


def main() -> None:
    for name, (notebook, cell_id) in CHARTS.items():
        cells = nbformat.read(paths.NOTEBOOKS / f"{notebook}.ipynb", as_version=4).cells
        outputs = next(cell["outputs"] for cell in cells if cell["id"] == cell_id)
        picture = next(
            out["data"]["image/png"] for out in outputs if "image/png" in out.get("data", {})
        )
        Path(__file__).with_name(f"{name}.png").write_bytes(base64.b64decode(picture))


if __name__ == "__main__":
    main()
