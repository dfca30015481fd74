"""Bar charts as SVG, without a library: a few rectangles and words."""

from xml.sax.saxutils import escape

WIDTH, BAR, LABEL = 720, 26, 130
COLOURS = ("#8a8f98", "#1f6feb", "#d1242f")


def bars(title, panels):
    """A panel for each `(what, {name: milliseconds})`, each with a scale of its own that begins at zero."""
    parts, y = [f'<text x="16" y="28" font-size="16">{escape(title)}</text>'], 56
    for what, values in panels:
        parts.append(f'<text x="16" y="{y}" fill="#57606a">{escape(what)}</text>')
        y += 12
        most = max(values.values())
        for colour, (name, value) in zip(COLOURS, values.items()):
            length = max(1.0, value / most * (WIDTH - LABEL - 130))
            middle = y + BAR * 0.7
            parts.append(f'<text x="16" y="{middle:.0f}">{escape(name)}</text>')
            parts.append(f'<rect x="{LABEL}" y="{y}" width="{length:.1f}" height="{BAR - 4}" fill="{colour}"/>')
            parts.append(f'<text x="{LABEL + length + 8:.1f}" y="{middle:.0f}">{value:,.0f} ms</text>')
            y += BAR
        y += 30
    body = "\n  ".join(parts)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y - 14}" font-family="sans-serif" '
            f'font-size="13">\n  <rect width="100%" height="100%" fill="#ffffff"/>\n  {body}\n</svg>\n')
