#!/usr/bin/env python3
"""bench/tools/offload_svg.py: a picture that is well-formed and has every sample inside its frame."""

import os
import sys
import unittest
import xml.etree.ElementTree

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "bench", "tools"))
import offload_svg  # noqa: E402

SVG = "{http://www.w3.org/2000/svg}"


def samples(count=50):
    return [{"time_s": 0.4 * i, "interval": 2 + i % 3, "host_mb": 30.0 - 10 * (10 < i < 30),
             "iteration_ms": 500 if i == 11 else 20, "predicted_ms": 19.5, "link_gbps": 1.0,
             "link_set_gbps": 0.3 if 10 < i < 30 else 1.0} for i in range(count)]


class Picture(unittest.TestCase):
    def test_every_series_is_drawn_inside_the_frame(self):
        root = xml.etree.ElementTree.fromstring(offload_svg.draw(samples(), 25.0, (4, 12)))
        width, height = float(root.get("width")), float(root.get("height"))
        lines = [line.get("points").split() for line in root.iter(SVG + "polyline")]
        self.assertEqual(len(lines), 6)  # host memory, deadline, measured, predicted, link as set, link as measured
        self.assertEqual(sorted(len(line) for line in lines), [2, 50, 50, 50, 99, 99])  # steps have a corner each
        for point in (point for line in lines for point in line):
            x, y = (float(number) for number in point.split(","))
            self.assertTrue(0 <= x <= width and 0 <= y <= height, point)

    def test_the_link_falls_where_it_fell(self):
        root = xml.etree.ElementTree.fromstring(offload_svg.draw(samples(), 25.0, (4, 12)))
        shade = [shape for shape in root.iter(SVG + "rect") if shape.get("fill") == offload_svg.SHADE][0]
        begin, end = float(shade.get("x")), float(shade.get("x")) + float(shade.get("width"))
        host = next(root.iter(SVG + "polyline")).get("points").split()
        low = max(float(point.split(",")[1]) for point in host)  # y grows downwards
        fallen = [float(point.split(",")[0]) for point in host if float(point.split(",")[1]) == low]
        self.assertTrue(all(begin <= x <= end for x in fallen), fallen)

    def test_ticks_are_round_and_few(self):
        for span in (0.002, 0.7, 1, 3.3, 9.99, 42, 100, 1234):
            step = offload_svg.nice_step(span)
            self.assertTrue(2 <= span / step <= 8.001, (span, step))
            self.assertIn(f"{step:e}"[0], "125")


if __name__ == "__main__":
    unittest.main()
