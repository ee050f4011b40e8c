# SPDX-License-Identifier: GPL-2.0-or-later
"""What bench/density says of its points: rows, how many machines fit, what each means was worth, a table and a picture.

A point is one side with so many machines in one round; its slowdown is its p99 by that of the unconstrained in the same round. A row
is the median over rounds. So many machines fit as the most up to which every number that was measured did.
"""
import math
import statistics

from density_sides import ABLATION, AGAIN, HURRIED, KERNEL, OURS, PLAIN, SIDES, STATIC, WHOLE

GOALS = (1.5, 2.0)
COLOURS = {"overbook": "#0b62a4", KERNEL: "#b8860b", HURRIED: "#c0392b", WHOLE: "#d98880", STATIC: "#4d7c3a", AGAIN: "#888888"}
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 440, 60, 170, 46, 50


def of(points, side, machines, number=None):
    return [point for point in points if point["side"] == side and point["machines"] == machines and number in (None, point["round"])]


def slowdown(points, point, figure="p99_ms"):
    """None where the unconstrained has not been measured."""
    plain = [other for other in of(points, PLAIN, point["machines"], point["round"]) if "skipped" not in other]
    return point[figure] / plain[0][figure] if plain else None


def sums_of(entries):
    """Medians, by name, of objects of numbers."""
    return {name: round(statistics.median(entry[name] for entry in entries), 3) for name in entries[0]}


def make_row(points, side, machines):
    measured = of(points, side, machines)
    good = [point for point in measured if "skipped" not in point]
    row = {"name": f"{side} {machines}", "side": side, "machines": machines, "rounds": len(measured)}
    if len(good) < len(measured):
        row["skipped"] = next(point["skipped"] for point in measured if "skipped" in point)
        row["failed"] = any(point.get("failed", False) for point in measured)
        return row
    for name in ("p50_ms", "p90_ms", "p99_ms", "most_ms", "charged_mib", "whole_mib", "cost_mib", "store_mib", "shared_mib"):
        values = [point[name] for point in good if name in point]
        if values:
            row[name] = round(statistics.median(values), 2)
    row["requests"] = sum(point["requests"] for point in good)
    row["unanswered"] = sum(point["unanswered"] for point in good)
    ratios = [ratio for ratio in (slowdown(points, point) for point in good) if ratio]
    if ratios and side != PLAIN:
        row.update(slowdown=round(statistics.median(ratios), 3), slowdown_min=round(min(ratios), 3), slowdown_max=round(max(ratios), 3))
        row["slowdown_p50"] = round(statistics.median(slowdown(points, point, "p50_ms") for point in good), 3)
    row["cores"] = sums_of([point["cores"] for point in good])
    row["swap_mib_s"] = sums_of([point["swap_mib_s"] for point in good])
    return row


def make_rows(points):
    return [make_row(points, side, machines) for side in (PLAIN, AGAIN, *SIDES, *ABLATION)
            for machines in sorted({point["machines"] for point in points if point["side"] == side})]


def fitting(rows, side, goal):
    """0: not even the fewest."""
    most = 0
    for row in sorted((row for row in rows if row["side"] == side), key=lambda row: row["machines"]):
        if row.get("slowdown", goal + 1) > goal:
            break
        most = row["machines"]
    return most


def densities(rows):
    sides = [side for side in (*SIDES, *ABLATION) if any(row["side"] == side for row in rows)]
    return [{"side": side, **{f"machines_at_{goal:g}": fitting(rows, side, goal) for goal in GOALS},
             "most_measured": max(row["machines"] for row in rows if row["side"] == side)} for side in sides]


def worths(rows):
    """What a means was worth: the slowdown without it (or with one more) by that with all means, with as many machines."""
    whole = {row["machines"]: row for row in rows if row["side"] == "overbook" and "slowdown" in row}
    return [{"what": OURS[row["side"]].words, "side": row["side"], "machines": row["machines"],
             "p99_ratio": round(row["slowdown"] / whole[row["machines"]]["slowdown"], 3),
             "p50_ratio": round(row["slowdown_p50"] / whole[row["machines"]]["slowdown_p50"], 3)}
            for row in rows if row["side"] in ABLATION and "slowdown" in row and row["machines"] in whole]


def processors(row, cpus):
    """Of all processors, in percent: all machines with what helps them, and the whole host."""
    cores = row["cores"]
    return (cores["qemu"] + cores["overbookd"] + cores["ksmd"]) / cpus * 100, cores["host"] / cpus * 100


def print_tables(rows, cpus, budget_mib):
    print(f"{'side':<20} {'N':>3} {'requests':>8} {'none':>5} {'p50 ms':>8} {'p99 ms':>8} {'slowdown':>8} {'min':>7} {'max':>7} {'cpu %':>6} "
          f"{'host %':>6} {'read':>7} {'written':>7} {'MiB':>6} {'whole':>6}")
    for row in rows:
        if "skipped" in row:
            print(f"{row['side']:<20} {row['machines']:>3} skipped: {row['skipped']}")
            continue
        mine, host = processors(row, cpus)
        slow = [f"{row[name]:.2f}" if name in row else "-" for name in ("slowdown", "slowdown_min", "slowdown_max")]
        swap = row["swap_mib_s"]
        print(f"{row['side']:<20} {row['machines']:>3} {row['requests']:>8} {row['unanswered']:>5} {row['p50_ms']:>8.2f} "
              f"{row['p99_ms']:>8.2f} {slow[0]:>8} {slow[1]:>7} {slow[2]:>7} {mine:>6.1f} {host:>6.1f} {swap['read']:>7.2f} "
              f"{swap['written']:>7.2f} {row['charged_mib']:>6.0f} {row['whole_mib']:>6.0f}")
    print(f"\nMachines in {budget_mib} MiB, with p99 at most so many times that without a budget:")
    for entry in densities(rows):
        print(f"{entry['side']:<20} " + "  ".join(f"{goal:g}: {entry[f'machines_at_{goal:g}']:>3}" for goal in GOALS) +
              f"  of up to {entry['most_measured']}")
    for entry in worths(rows):
        print(f"{entry['machines']} machines {entry['what']}: p99 {entry['p99_ratio']:.2f} times, p50 {entry['p50_ratio']:.2f} times that with "
              "all means")
    for row in rows:
        used = processors(row, cpus)[0] if row["side"] == PLAIN and "skipped" not in row else 0
        if used > 50:
            print(f"{row['machines']} machines without a budget used {used:.0f}% of the processors: not memory alone limits them")


class Picture:
    """Machines to the right, slowdown upwards (by doublings; what is slower than the picture is high lies on its edge)."""

    def __init__(self, machines, most):
        self.machines, self.parts = machines, []
        self.steps = 1
        while 2 ** self.steps < most and self.steps < 6:
            self.steps += 1

    def x(self, count):
        low, high = min(self.machines), max(self.machines)
        return LEFT + (count - low) / max(high - low, 1) * (WIDTH - LEFT - RIGHT)

    def y(self, slow):
        doublings = min(max(math.log2(max(slow, 0.01)), -0.5), self.steps)
        return HEIGHT - BOTTOM - (doublings + 0.5) / (self.steps + 0.5) * (HEIGHT - TOP - BOTTOM)

    def text(self, x, y, words, anchor="middle", colour="#333333"):
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{words}</text>')

    def line(self, x1, y1, x2, y2, colour, dash=""):
        self.parts.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"' +
                          (f' stroke-dasharray="{dash}"' if dash else "") + "/>")

    def frame(self, title):
        self.text(WIDTH / 2, 20, title)
        for step in range(self.steps + 1):
            self.line(LEFT, self.y(2 ** step), WIDTH - RIGHT, self.y(2 ** step), "#dddddd")
            self.text(LEFT - 8, self.y(2 ** step) + 4, f"{2 ** step}", "end")
        for goal in GOALS:
            self.line(LEFT, self.y(goal), WIDTH - RIGHT, self.y(goal), "#444444", "5 4")
            self.text(WIDTH - RIGHT - 4, self.y(goal) - 4, f"{goal:g} times", "end")
        for count in self.machines:
            self.text(self.x(count), HEIGHT - BOTTOM + 18, f"{count}")
        self.line(LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, HEIGHT - BOTTOM, "#333333")
        self.text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, "machines")

    def curve(self, rows, label, colour, at):
        spots = [(self.x(row["machines"]), self.y(row["slowdown"])) for row in rows]
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
        self.parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{points}"/>')
        for (x, y), row in zip(spots, rows):
            self.line(x, self.y(row["slowdown_min"]), x, self.y(row["slowdown_max"]), colour)
            self.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>')
        self.line(WIDTH - RIGHT + 14, at - 4, WIDTH - RIGHT + 34, at - 4, colour)
        self.text(WIDTH - RIGHT + 40, at, label, "start", colour)

    def whole(self):
        return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">\n'
                f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>\n' + "\n".join(self.parts) + "\n</svg>\n")


def draw(rows, budget_mib, path):
    """p99 against the same number of machines without a budget, by their number."""
    rows = [row for row in rows if "slowdown" in row and row["side"] not in ABLATION]
    if not rows:
        return
    picture = Picture(sorted({row["machines"] for row in rows}), max(row["slowdown"] for row in rows))
    picture.frame(f"p99 of a request in {budget_mib} MiB, as times of that without a budget")
    sides = [side for side in (AGAIN, *SIDES) if any(row["side"] == side for row in rows)]
    for i, side in enumerate(sides):
        picture.curve([row for row in rows if row["side"] == side], side, COLOURS[side], TOP + 20 + i * 20)
    with open(path, "w", encoding="ascii") as f:
        f.write(picture.whole())
