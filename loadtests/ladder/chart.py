"""The ladder as a picture: one bar a rung for throughput, one for CPU. Legible on light and on dark
pages."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from loadtests.bench.measures import figure_text
from loadtests.ladder.measure import Row

WIDTH, LINE, LEFT, BAR = 860, 30, 318, 190
TOP = 52
_STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #1f2328 }
  .head { font-weight: 600 } .quiet { fill: #59636e }
  .rate { fill: #1a7f64 } .cpu { fill: #9a6700 } .base { stroke: #8c959f; stroke-width: 1 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .quiet { fill: #9198a1 } .rate { fill: #3fb68b } .cpu { fill: #d29922 }
  }
"""


def draw(rows: Sequence[Row], caption: str) -> str:
    """Return an SVG. A rung without a figure has a note in place of a bar."""
    height = TOP + LINE * len(rows) + 34
    right = LEFT + BAR + 90
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        f"<title>{escape(caption)}</title>",
        f"<style>{_STYLE}</style>",
        f'<text class="head" x="{LEFT}" y="24">throughput, MB/s</text>',
        f'<text class="head" x="{right}" y="24">CPU, seconds a GiB</text>',
    ]
    most_rate = max((row.rate or 0 for row in rows), default=0) or 1
    most_cpu = max((row.cpu or 0 for row in rows), default=0) or 1
    for index, row in enumerate(rows):
        y = TOP + index * LINE
        parts.append(
            f'<text x="8" y="{y + 15}">{escape(f"{row.rung.number}  {row.rung.idea}")}</text>'
        )
        parts += _bar(LEFT, y, "rate", row.rate, most_rate)
        parts += _bar(right, y, "cpu", row.cpu, most_cpu)
    for x in (LEFT, right):
        parts.append(f'<line class="base" x1="{x}" y1="{TOP - 8}" x2="{x}" y2="{height - 38}"/>')
    parts.append(f'<text class="quiet" x="8" y="{height - 12}">{escape(caption)}</text></svg>')
    return "\n".join(parts) + "\n"


def _bar(x: int, y: int, kind: str, value: float | None, most: float) -> list[str]:
    if value is None:
        return [f'<text class="quiet" x="{x + 6}" y="{y + 15}">not measured</text>']
    length = max(1.0, BAR * value / most)
    return [
        f'<rect class="{kind}" x="{x}" y="{y}" width="{length:.1f}" height="20" rx="2"/>',
        f'<text x="{x + length + 6:.1f}" y="{y + 15}">{figure_text(value)}</text>',
    ]
