"""Starts the demo: `make demo`, or `python demo/app.py`."""

from __future__ import annotations

import argparse

import gradio as gr
from ui import EXAMPLES, build_ui

from mllmseg.inference.segmenter import Segmenter


def main() -> None:
    """Loads the model and serves the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="a checkpoint folder or hub id; default: the model inside the package")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=7860)
    args = parser.parse_args()
    page = build_ui(Segmenter.from_pretrained(args.model, progress=True))
    page.queue(max_size=32, default_concurrency_limit=1)
    page.launch(
        server_name=args.host,
        server_port=args.port,
        max_file_size="20mb",
        allowed_paths=[str(EXAMPLES)],
        theme=gr.themes.Soft(),
    )


if __name__ == "__main__":
    main()
