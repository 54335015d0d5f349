"""Draws how offloading follows a link that slows: samples over time, as an SVG. Python's standard library alone.

Three panels on one axis of time: what lives in host memory and the interval, the iteration's time against its deadline,
the link as it is set and as it is measured.
"""

import math

WIDTH, PANEL, GAP, LEFT, RIGHT, TOP = 860, 150, 34, 64, 64, 30
INK, SOFT, SHADE = "#222", "#bbb", "#f3ead8"
BLUE, RED, GREEN = "#1f5fa8", "#b3392f", "#2f7d4f"


def nice_step(span):
    """A round distance between ticks, so that there are three to eight of them in `span`."""
    step = 10.0 ** math.floor(math.log10(span))
    for factor in (0.2, 0.5, 1):
        if span / (step * factor) <= 8:
            return step * factor
    return 2 * step


class Panel:
    """One plot: time to the right, a value up from 0 to `most`."""

    def __init__(self, out, top, end_s, most, title, color=INK):
        self.out, self.top, self.end_s, self.most = out, top, end_s, most or 1
        out.append(f'<text x="{LEFT}" y="{top - 8}" fill="{color}">{title}</text>')
        step = nice_step(self.most)
        value = 0
        while value <= self.most:
            y = self.y(value)
            out.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" stroke="#e6e6e6"/>')
            out.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
            value = round(value + step, 6)

    def x(self, time_s):
        return LEFT + (WIDTH - LEFT - RIGHT) * time_s / self.end_s

    def y(self, value):
        return self.top + PANEL * (1 - min(max(value / self.most, 0), 1))

    def line(self, points, color, dash="", steps=False):
        """A polyline through (time, value); with `steps` each value holds until the next."""
        path = []
        for i, (time_s, value) in enumerate(points):
            if steps and i > 0:
                path.append(f"{self.x(time_s):.1f},{self.y(points[i - 1][1]):.1f}")
            path.append(f"{self.x(time_s):.1f},{self.y(value):.1f}")
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        self.out.append(f'<polyline points="{" ".join(path)}" fill="none" stroke="{color}" stroke-width="1.5"{dashed}/>')

    def label(self, time_s, value, text, color):
        self.out.append(f'<text x="{self.x(time_s):.1f}" y="{self.y(value) - 5:.1f}" fill="{color}" '
                        f'text-anchor="end">{text}</text>')


def series(samples, name):
    return [(sample["time_s"], sample[name]) for sample in samples]


def largest(samples, *names):
    return max(sample[name] for sample in samples for name in names)


def draw(samples, deadline_ms, slow):
    """The picture of a run; `slow` is (begin, end) in seconds, where the link was slow."""
    end_s = samples[-1]["time_s"]
    height = TOP + 3 * (PANEL + GAP) + 20
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
           f'viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12" fill="{INK}">',
           f'<rect width="{WIDTH}" height="{height}" fill="white"/>']
    scale = (WIDTH - LEFT - RIGHT) / end_s
    out.append(f'<rect x="{LEFT + slow[0] * scale:.1f}" y="{TOP}" width="{(slow[1] - slow[0]) * scale:.1f}" '
               f'height="{3 * PANEL + 2 * GAP}" fill="{SHADE}"/>')

    host = Panel(out, TOP, end_s, 1.15 * largest(samples, "host_mb"), "weights in host memory, MB", BLUE)
    host.line(series(samples, "host_mb"), BLUE, steps=True)
    for middle in (slow[0] / 2, (slow[0] + slow[1]) / 2, (slow[1] + end_s) / 2):
        nearest = min(samples, key=lambda one, at=middle: abs(one["time_s"] - at))
        out.append(f'<text x="{host.x(middle):.1f}" y="{host.y(nearest["host_mb"]) - 10:.1f}" fill="{BLUE}" '
                   f'text-anchor="middle">interval {nearest["interval"]:.2f}</text>')

    top = TOP + PANEL + GAP
    times = sorted(sample["iteration_ms"] for sample in samples)
    most = 1.15 * max(deadline_ms, min(times[-1], 2.5 * deadline_ms))
    panel = Panel(out, top, end_s, most, "iteration, ms: measured, and predicted (dashed)", GREEN)
    panel.line([(0, deadline_ms), (end_s, deadline_ms)], RED)
    panel.label(end_s, deadline_ms, "deadline", RED)
    panel.line(series(samples, "iteration_ms"), GREEN)
    panel.line(series(samples, "predicted_ms"), INK, dash="3 3")

    top += PANEL + GAP
    most = 1.15 * largest(samples, "link_set_gbps")
    link = Panel(out, top, end_s, most, "link, GB/s: as it is set, and as the engine measures it (dashed)", INK)
    link.line(series(samples, "link_set_gbps"), SOFT, steps=True)
    link.line(series(samples, "link_gbps"), INK, dash="3 3")

    axis = top + PANEL
    step = nice_step(end_s)
    time_s = 0
    while time_s <= end_s:
        out.append(f'<text x="{link.x(time_s):.1f}" y="{axis + 18}" text-anchor="middle">{time_s:g} s</text>')
        time_s += step
    out.append("</svg>")
    return "\n".join(out) + "\n"
