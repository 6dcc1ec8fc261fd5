"""`python -m scripts.tiny_models`: build the bundled models."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from scripts.tiny_models import build


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.tiny_models", description=__doc__)
    parser.add_argument(
        "stages",
        nargs="*",
        default=list(build.STAGES),
        help=f"default: all, in this order: {', '.join(build.STAGES)}",
    )
    parser.add_argument(
        "--work", type=Path, default=Path("build/tiny"), help="logs and resumable states"
    )
    parser.add_argument(
        "--models", type=Path, default=Path("data/models"), help="where the checkpoints go"
    )
    parser.add_argument(
        "--smoke", action="store_true", help="a few steps of each stage, to see that it runs"
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=1,
        help="of a process; default: 1, since torchrun starts one a core (vision runs as one)",
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    for unknown in set(args.stages) - set(build.STAGES):
        parser.error(f"there is no stage {unknown!r}; choose from {', '.join(build.STAGES)}")
    torch.set_num_threads(args.threads)
    if torch.distributed.is_torchelastic_launched():
        torch.distributed.init_process_group("gloo")
    for stage in args.stages:
        getattr(build, stage)(args.work, args.models, smoke=args.smoke, device=args.device)


if __name__ == "__main__":
    main()
