"""Draws docs/pictures/pipelines.png: what `kedro viz` shows of a workspace's pipelines.

python scripts/draw_pipelines.py [OUT.png]; needs the extra `ui`, Pillow, and Debian's chromium.
"""

from __future__ import annotations

import functools
import http.server
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from PIL import Image, ImageChops
from PIL.PngImagePlugin import PngInfo

from axlebox.training.pipeline_registry import register_pipelines
from axlebox.training.workspace import init_workspace

OUT = Path(__file__).resolve().parents[1] / "docs" / "pictures" / "pipelines.png"
SIZE = "560,1000"
MARGIN = 24
"""Pixels around the graph."""
BROWSER = (
    *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # the page would ask for a font
    *("--virtual-time-budget=20000", "--force-device-scale-factor=1.5", f"--window-size={SIZE}"),
)
LOOK = """<script>
localStorage.setItem("KedroViz", JSON.stringify({
  theme: "light", textLabels: true, showFeatureHints: false,
  visible: {sidebar: false, miniMap: false},
}));
</script>
<style>
[class^="pipeline-"][class*="toolbar"], .pipeline-sidebar, .pipeline-minimap, [class^="update-reminder"],
[class*="feature-hints"] {display: none !important}
</style>
"""


class _Page(http.server.SimpleHTTPRequestHandler):
    """The page of `kedro viz build`, which is blank when it is opened as a file, with our LOOK."""

    def do_GET(self) -> None:
        if self.path != "/":
            return super().do_GET()
        page = (Path(self.directory) / "index.html").read_text().replace("<head>", "<head>" + LOOK).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(page)
        return None

    def log_message(self, *words: object) -> None:
        pass


def draw(out: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = init_workspace(Path(folder) / "fleet").root
        kedro = Path(sys.executable).parent / "kedro"
        subprocess.run([kedro, "viz", "build"], cwd=root, check=True, env={**os.environ, "DO_NOT_TRACK": "1"})
        handler = functools.partial(_Page, directory=str(root / "build"))
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            address = f"http://127.0.0.1:{server.server_port}/"
            profile = f"--user-data-dir={folder}/browser"
            subprocess.run([*BROWSER, profile, f"--screenshot={out}", address], check=True, timeout=120)
            server.shutdown()
    crop(out)


def crop(path: Path) -> None:
    """Leave of a picture what differs from the colour of its corner, with a margin, in few colours."""
    with Image.open(path) as file:
        picture = file.convert("RGB")
    ground = Image.new("RGB", picture.size, picture.getpixel((0, 0)))
    left, top, right, bottom = ImageChops.difference(picture, ground).getbbox() or (0, 0, *picture.size)
    around = (left - MARGIN, top - MARGIN, right + MARGIN, bottom + MARGIN)
    about = PngInfo()  # so that a test can tell when the picture is no longer that of the pipelines
    about.add_text("shows", shown())
    picture.crop(around).quantize(32).save(path, optimize=True, pnginfo=about)


def shown() -> str:
    """Nodes and datasets of the pipelines."""
    whole = register_pipelines()["__default__"]
    return " ".join(sorted({node.name for node in whole.nodes} | (whole.datasets() - {"parameters"})))


if __name__ == "__main__":
    draw(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else OUT)
