"""Pictures of the site and of the notebook, at the widths of a screen and of a phone.

``python docs/screenshots.py`` builds the site, runs the notebook, and writes ``docs/pictures/*.webp``. It needs the
extras docs and test, nbconvert, and chromium.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbclient
import nbformat
from nbconvert import HTMLExporter
from PIL import Image
from playwright.sync_api import Browser, sync_playwright

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "pictures"
PAGES = {"start": "index.html", "api": "api/estimators.html#streamgmm.estimators.gaussian_mixture.GaussianMixture",
         "gallery": "examples.html"}  # fmt: skip
"""Name of a picture -> page of the site."""
SIZES = ((1400, 1000), (390, 844))
"""Windows: a screen and a phone."""
NOTEBOOK = (1000, 2300)
"""Window on the notebook."""
MOST_BYTES = 150_000


def built(folder: Path) -> Path:
    """The site, in `folder`."""
    subprocess.run([sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)],
                   cwd=ROOT, check=True)  # fmt: skip
    return folder


def executed(folder: Path) -> str:
    """The notebook with its outputs, as HTML."""
    notebook = nbformat.read(ROOT / "examples" / "notebook.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    return str(HTMLExporter(template_name="classic").from_notebook_node(notebook)[0])


def taken(browser: Browser, address: str, size: tuple[int, int], at: str | None = None) -> Image.Image:
    """The window on a page, `at` the element of this selector."""
    page = browser.new_page(viewport={"width": size[0], "height": size[1]})
    page.goto(address)
    if at is not None:
        page.locator(at).first.evaluate("one => scrollTo(0, one.getBoundingClientRect().top + scrollY - 12)")
    page.wait_for_timeout(400)  # what moves has come to rest
    picture = Image.open(io.BytesIO(page.screenshot()))
    page.close()
    return picture.convert("RGB")


def write(picture: Image.Image, name: str) -> None:
    """Write a WebP of at most `MOST_BYTES`."""
    for quality in (88, 80, 70, 60, 45):
        out = io.BytesIO()
        picture.save(out, "WEBP", quality=quality, method=6)
        if out.tell() <= MOST_BYTES:
            break
    else:
        raise ValueError(f"{name}: {out.tell():,} bytes, expected at most {MOST_BYTES:,}. Make the window smaller.")
    (PICTURES / name).write_bytes(out.getvalue())
    print(name, picture.size, f"{out.tell():,} bytes")


def main() -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as work, sync_playwright() as p:
        site = built(Path(work, "site"))
        notebook = Path(work, "notebook.html")
        notebook.write_text(executed(Path(work)), encoding="utf-8")
        browser = p.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for size in SIZES:
            for name, page in PAGES.items():
                write(taken(browser, f"{site.as_uri()}/{page}", size), f"site-{name}-{size[0]}.webp")
        write(taken(browser, notebook.as_uri(), NOTEBOOK, ".cell:has(svg)"), "notebook.webp")
        browser.close()


if __name__ == "__main__":
    main()
