"""Serve an exported run without gaal_fast: ``python examples/serve.py model.onnx 8000``.

A request is a JSON list of rows, a row its cells by column: a number (a date is one of days), a
text, or an image file in base64; ``curl -d '[{"height": 3.1, "bark": "grey"}]' localhost:8000``.
"""

from __future__ import annotations

import base64
import io
import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

MEANING = json.loads(Path(f"{sys.argv[1]}.json").read_text(encoding="utf-8"))
SESSION = onnxruntime.InferenceSession(sys.argv[1])


def pixels(cell: str | None, size: int, resampling: str) -> np.ndarray:
    """uint8 [3, size, size]; anything where there is no image, as ``present`` says so."""
    if cell is None:
        return np.zeros((3, size, size), dtype=np.uint8)
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(base64.b64decode(cell)))).convert("RGB")
    return np.array(image.resize((size, size), Image.Resampling[resampling.upper()])).transpose(
        2, 0, 1
    )


def inputs(rows: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """What the graph takes, for a list of rows."""
    found = {"present": np.ones((len(rows), len(MEANING["modalities"])), dtype=bool)}
    for place, one in enumerate(MEANING["modalities"]):
        if one["kind"] == "image":
            cells = [row.get(one["column"]) for row in rows]
            found["present"][:, place] = [cell is not None for cell in cells]
            how = one["size"], one["resampling"]
            found[one["input"]] = np.stack([pixels(cell, *how) for cell in cells])
        if numbers := one.get("numbers"):
            table = [[row.get(c["name"]) for c in numbers["columns"]] for row in rows]
            found[numbers["input"]] = np.array(table, dtype=np.float64)  # None becomes NaN
        if codes := one.get("codes"):
            levels = {c["name"]: {None: codes["missing"], **c["levels"]} for c in codes["columns"]}
            # A code that no level has is a level that was never seen in training.
            table = [[of.get(row.get(n), len(of)) for n, of in levels.items()] for row in rows]
            found[codes["input"]] = np.array(table, dtype=np.int64)
    return found


class Handler(BaseHTTPRequestHandler):
    """Answers a list of rows with a list of predictions by column."""

    def do_POST(self) -> None:
        """Read rows, run them as one batch, and write what came out."""
        rows = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        (answers,) = SESSION.run(None, inputs(rows))
        names = MEANING["output"]["columns"]
        body = json.dumps([dict(zip(names, answer.tolist(), strict=True)) for answer in answers])
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body.encode())


if __name__ == "__main__":
    server = HTTPServer(("127.0.0.1", int(sys.argv[2])), Handler)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
