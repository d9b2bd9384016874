"""Writes every page that is made from the code: ``PYTHONPATH=tests python -m pages``."""

from pages.all_pages import DOCS, PAGES

for name, make in PAGES.items():
    (DOCS / name).write_text(make(), encoding="utf-8")
