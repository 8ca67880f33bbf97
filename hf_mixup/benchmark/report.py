"""Speed records as Markdown tables."""

OURS = ("ours", "ours, out", "ours, in place")
# heading, image side, whether the process keeps freed memory, name of our call
COLUMNS = (
    ("32 px, out", 32, True, "ours, out"),
    ("64 px, out", 64, True, "ours, out"),
    ("224 px, out", 224, True, "ours, out"),
    ("224 px, in place", 224, True, "ours, in place"),
    ("224 px, out, usual memory", 224, False, "ours, out"),
)
HEAD = (
    f"| method | {' | '.join(heading for heading, *_ in COLUMNS)} |",
    f"|---|{'---|' * len(COLUMNS)}",
)


def speed_table(record: dict) -> str:
    """One row per method on one thread: milliseconds, multiple of the floor, speedup over the fastest library."""
    found = {_key(case): case["milliseconds"] for case in record["cases"] if case["threads"] == 1}
    names = dict.fromkeys((case["case"], case["per_image"]) for case in record["cases"])
    rows = []
    for name, per_image in names:
        cells = [_cell(found.get((name, per_image, side, kept)), call) for _, side, kept, call in COLUMNS]
        rows.append(f"| {name}{', per image' * per_image} | {' | '.join(cells)} |")
    return "\n".join([*HEAD, *rows])


def _key(case: dict) -> tuple:
    return case["case"], case["per_image"], case["size"][-1], case["kept_memory"]


def _cell(times: dict | None, call: str) -> str:
    if times is None or call not in times:
        return ""
    ours, floor = times[call]["median"], times["floor"]["median"]
    peers = {name: time["median"] for name, time in times.items() if name not in (*OURS, "floor") and "median" in time}
    text = f"{ours:.2f} ms, {ours / floor:.1f}x"
    if not peers:
        return text
    best = min(peers, key=peers.get)
    return f"{text}; {peers[best] / ours:.1f}x {best}"


def input_table(record: dict) -> str:
    """One row per path or limit, one column per size and number of workers: images/s, share of a step spent waiting."""
    columns = [f"{case['size']} px, {case['workers']} worker(s)" for case in record["cases"]]
    found = [case["paths"] | case["limits"] for case in record["cases"]]
    rows = [f"| {name} | {' | '.join(_rate(case[name]) for case in found)} |" for name in found[0]]
    return "\n".join([f"| images/s | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}", *rows])


def _rate(path: dict) -> str:
    text = f"{path['images_per_s']['median']:,.0f}"
    return f"{text}; {path['waiting']['share']:.1%}" if "waiting" in path else text
