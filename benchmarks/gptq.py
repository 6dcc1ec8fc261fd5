"""`make gptq`: quantise the merged company model to 4 bits on the CPU, with GPTQ (Frantar et al.
2022) and with AWQ (Lin et al. 2024), by gptqmodel 7.7.0.

It runs in an environment of its own: the library has no wheels, needs a C compiler, and declares a
newer torch than the course has. Keeps the checkpoints in the cache, where `variants.company` finds
them; those named with --commit are copied to `data/quantised`, too, GPTQ's without the embedding
table and the tokenizer, which are those of the bundled model.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import shutil
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file

from qwen3lab import cache, measure, models, training
from qwen3lab.quantization import gptq_checkpoints, variants


def make_awq(source: Path, folder: Path, texts: list[str]) -> None:
    """Write the AWQ checkpoint of `source` into `folder`."""
    with gptq_checkpoints.quiet_gptqmodel() as library:
        from gptqmodel.quantization import FORMAT, METHOD

        config = library.QuantizeConfig(
            bits=4,
            group_size=variants.GROUP,
            quant_method=METHOD.AWQ,
            format=FORMAT.GEMM,
            offload_to_disk=False,
        )
        model = library.GPTQModel.load(str(source), config, device="cpu")
        model.quantize(texts, batch_size=8, calibration_data_min_length=1)
        gptq_checkpoints.save(model, folder)


def commit(place: Path, goal: Path, rest: str | None = None) -> None:
    """Copy a kept checkpoint to `goal`; what it shares with the bundled model `rest` stays out."""
    shutil.rmtree(goal, ignore_errors=True)
    shutil.copytree(place, goal)
    if not rest:
        return
    weights = load_file(goal / "model.safetensors")
    table = load_file(models.resolve(rest) / "model.safetensors")["model.embed_tokens.weight"]
    if not weights.pop("model.embed_tokens.weight").equal(table.bfloat16()):
        sys.exit(f"The embedding table is not that of {rest}. Commit the whole checkpoint.")
    save_file(weights, goal / "model.safetensors", {"format": "pt"})
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (goal / file).unlink()
    config = json.loads((goal / "config.json").read_text(encoding="utf-8"))
    (goal / "config.json").write_text(json.dumps(config | {"rest": rest}, indent=2) + "\n", "utf-8")
    proof = json.loads((goal / cache.PROOF).read_text(encoding="utf-8"))
    cache.write_proof(goal, proof)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--commit", nargs="+", default=[], choices=variants.COMPANY, help="also to data/quantised"
    )
    args = parser.parse_args()
    version = importlib.metadata.version("gptqmodel")
    if version != variants.GPTQMODEL:
        sys.exit(
            f"This environment has gptqmodel {version}, but AWQ on a CPU needs"
            f" {variants.GPTQMODEL}. Run `make gptq`."
        )
    _, tokenizer = models.load("chat")
    texts = variants.calibration(tokenizer)
    source = variants.merged("chat", training.company_adapter(), "bfloat16")
    made = {
        "gptq": variants.gptq(source, texts),
        "awq": cache.keep(
            source,
            "awq",
            variants.packed_settings(texts),
            lambda folder: make_awq(source, folder, texts),
        ),
    }
    for method, place in made.items():
        if method in args.commit:
            commit(place, variants.COMPANY[method], "qwen3-tiny" if method == "gptq" else None)
        print(
            f"{method.upper():<5}{place.name}: {measure.folder_bytes(place, '*.safetensors'):,}"
            " bytes of weights"
        )


if __name__ == "__main__":
    main()
