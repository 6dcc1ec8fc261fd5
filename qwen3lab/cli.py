"""The command line: `qwen3lab doctor` and `qwen3lab plan`."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import sys

from qwen3lab import memory, paths, profiles
from qwen3lab.errors import Qwen3labError

LIBRARIES = ("torch", "transformers", "trl", "peft", "bitsandbytes", "datasets", "sentence-transformers", "faiss-cpu", "gptqmodel", "optimum",
             "xllamacpp")


def doctor() -> int:
    """Print what this machine has and which profiles it can run, each with the reason; 1 where something essential is missing."""
    faults = []
    print(f"Python   {platform.python_version()} on {platform.system()} {platform.machine()}, {os.cpu_count()} CPUs, "
          f"{memory.machine_bytes() / 1e9:.1f} GB of memory")
    for name in LIBRARIES:
        try:
            print(f"         {name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            faults.append(f"The library {name} is missing. Run `make course`, or `pip install -c constraints.txt -e .` in your environment.")
    bundled = sorted(path.parent.name for path in paths.MODELS.glob("*/model.safetensors"))
    print(f"models   {', '.join(bundled) or 'none bundled'}")
    if "qwen3-tiny" not in bundled:
        faults.append("The bundled model qwen3-tiny is missing. Run `git checkout -- data/models`.")
    if not faults:
        import torch

        gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none seen by torch"
        print(f"GPU      {gpu}")
        for name in profiles.NAMES:
            profile = profiles.get(name)
            wanted = profiles.needs(profile)
            try:
                profiles.check_fits(profile)
                verdict = "runs here" + (f": needs {wanted.total / 1e9:.2f} GB" if wanted else "")
            except Qwen3labError as error:
                verdict = "does not: " + str(error).split(". ")[0]
            print(f"profile  {name:<7} {verdict}")
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


def plan(args: argparse.Namespace) -> int:
    """Print the memory plan of one model and method."""
    print(memory.plan(args.model, args.method, tokens=args.tokens, rank=args.rank, experts_in_4bit=args.experts_in_4bit).table())
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit code: 0 done, 1 a fault said in one sentence, 2 wrong arguments."""
    parser = argparse.ArgumentParser(
        prog="qwen3lab", description="The course on fine-tuning Qwen3.", formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n  qwen3lab doctor\n  qwen3lab plan 8B --method qlora --tokens 8192\n  qwen3lab plan 30B-A3B --method qlora --experts-in-4bit")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("doctor", help="what this machine has and what it can run")
    planner = commands.add_parser("plan", help="the memory that a model needs")
    planner.add_argument("model", help="a model of the family, for example 0.6B or 30B-A3B")
    planner.add_argument("--method", choices=memory.METHODS, default="lora")
    planner.add_argument("--tokens", type=int, default=0, help="rows of a batch times their length")
    planner.add_argument("--rank", type=int, default=16, help="of the LoRA")
    planner.add_argument("--experts-in-4bit", action="store_true", help="assume that QLoRA quantises the experts too")
    args = parser.parse_args(argv)
    try:
        return doctor() if args.command == "doctor" else plan(args)
    except Qwen3labError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
