"""Quantise the merged company model to 4 bits with AWQ (Lin et al. 2024) on the CPU: `make awq`.

It uses gptqmodel 7.7.0, in an environment of its own: 7.7.0 is the first version that does this
without a GPU, but it declares a newer torch than the course has. Stores the checkpoint in the
cache, where `qwen3lab.quantization.variants.awq` finds it; with --commit it is also copied to
`data/quantised/company-awq`.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import shutil
import sys
import tempfile
from pathlib import Path

from qwen3lab import cache, measure, models, training
from qwen3lab.quantization import gptq_checkpoints, variants


def make(source: Path, folder: Path, texts: list[str]) -> None:
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
        with tempfile.TemporaryDirectory() as scratch:
            model.save(scratch)
            for file in Path(scratch).iterdir():
                if (
                    file.name != "quant_log.csv"
                ):  # contains timings, which would change the hash with each run
                    shutil.copy(file, folder / file.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--commit", action="store_true", help="also copy it to data/quantised/company-awq"
    )
    args = parser.parse_args()
    version = importlib.metadata.version("gptqmodel")
    if version != variants.AWQ_VERSION:
        sys.exit(
            f"This environment has gptqmodel {version}, but AWQ on a CPU needs"
            f" {variants.AWQ_VERSION}. Run `make awq`."
        )
    _, tokenizer = models.load("chat")
    texts = variants.calibration(tokenizer)
    source = variants.merged("chat", training.company_adapter(), "bfloat16")
    place = cache.keep(
        source, "awq", variants.awq_settings(texts), lambda folder: make(source, folder, texts)
    )
    if args.commit:
        shutil.rmtree(variants.COMPANY_AWQ, ignore_errors=True)
        shutil.copytree(place, variants.COMPANY_AWQ)
    print(
        f"AWQ checkpoint {place.name}: {measure.folder_bytes(place, '*.safetensors'):,} bytes of"
        " weights"
    )


if __name__ == "__main__":
    main()
