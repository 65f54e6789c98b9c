"""Draws the ratios as bars and the curve over batch budgets, as one SVG without a library."""

import math
import statistics

WIDTH, LEFT, LINE = 860, 330, 40
BLUE, RED, GREY = "#3060a0", "#c04040", "#888888"


def text(x, y, words, anchor="start", more=""):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{words}</text>'


def line(x1, y1, x2, y2, colour, width=1):
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width}"/>'


def bars(rows, top):
    """Median ratios with their spread on a logarithmic axis; a red line is the goal."""
    span = max([math.log10(max([*values, goal or 1])) for _, values, goal in rows] + [0.1]) * 1.1

    def x(value):
        return LEFT + (WIDTH - LEFT - 60) * max(0.0, math.log10(value)) / span
    parts = [text(10, top + 16, "offsite: how many times as fast as (logarithmic; red: the goal)", more=' font-weight="bold"')]
    for i, (name, values, goal) in enumerate(rows):
        y, middle = top + 34 + i * LINE, statistics.median(values)
        parts += [text(LEFT - 8, y + 17, name, "end"),
                  f'<rect x="{LEFT}" y="{y}" width="{x(middle) - LEFT:.1f}" height="24" fill="{BLUE}"/>',
                  line(x(min(values)), y + 12, x(max(values)), y + 12, "black", 2),
                  text(max(x(middle), x(max(values))) + 8, y + 17, f"{middle:.1f}")]
        if goal:
            parts.append(line(x(goal), y - 4, x(goal), y + 28, RED, 2))
    return parts, top + 44 + len(rows) * LINE


def curve(points, top, goal=2.0):
    """Ratios over sequences a batch, both medians and spreads."""
    height, right = 180, WIDTH - 60
    most = max([goal, *(r for _, values in points for r in values)]) * 1.15
    last = max(math.log2(points[-1][0]), 1)

    def x(batch):
        return 70 + (right - 70) * math.log2(batch) / last

    def y(ratio):
        return top + 30 + height * (1 - ratio / most)
    parts = [text(10, top + 16, "offsite against the strongest PyTorch variant over sequences a batch", more=' font-weight="bold"'),
             line(70, y(0), right, y(0), "black"), line(70, y(0), 70, y(most), "black"), line(70, y(goal), right, y(goal), RED)]
    for value in range(0, int(most) + 1):
        parts.append(text(60, y(value) + 4, value, "end"))
    middle = [(x(b), y(statistics.median(values))) for b, values in points]
    parts += [line(*a, *b, BLUE, 2) for a, b in zip(middle, middle[1:])]
    for (batch, values), (mx, my) in zip(points, middle):
        parts += [line(mx, y(min(values)), mx, y(max(values)), GREY, 2), f'<circle cx="{mx:.1f}" cy="{my:.1f}" r="4" fill="{BLUE}"/>',
                  text(mx, y(0) + 18, batch, "middle"), text(mx + 8, my - 8, f"{statistics.median(values):.2f}")]
    return parts, top + height + 70


def figure(rows, points):
    parts, bottom = bars(rows, 0) if rows else ([], 20)
    if points:
        more, bottom = curve(points, bottom)
        parts += more
    return "\n".join([f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom}" font-family="sans-serif" '
                      f'font-size="13">', f'<rect width="{WIDTH}" height="{bottom}" fill="white"/>', *parts, "</svg>", ""])
