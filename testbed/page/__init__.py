"""Comparisons for reading elsewhere: a Markdown table, and a page of HTML that needs nothing but itself."""

from testbed.page.document import page
from testbed.page.text import markdown

__all__ = ["markdown", "page"]
