"""What a report costs: seconds and memory at 10, 20 and 50 runs of 10,000 images, the size of the page, and how long
chromium takes to open it.

python benchmarks/report.py            # each in a process of its own; the runs are made up in a temporary folder
"""

import argparse
import contextlib
import io
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np

from holdfast.core.certificate import Certificate
from holdfast.smoothing.evidence import FixedVotes
from holdfast.smoothing.noise import Float32

METHODS = ("GaussianNoise", "MACER", "SmoothMix", "Consistency")
SIGMA, N0, N, ALPHA, CLASSES = 0.5, 100, 100_000, 0.001, 10


def make(folder: Path, number: int, images: int) -> None:
    """A run as `certify` leaves it: made-up votes, radii that follow from them."""
    rng = np.random.default_rng(number)
    method = {"kind": METHODS[number % len(METHODS)], "sigma": SIGMA}
    recipe = {"kind": "Recipe", "method": method, "dataset": "mnist", "arch": "lenet", "seed": number // len(METHODS)}
    inside = folder / "certify-1"
    inside.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"name": folder.name, "recipe": recipe}))
    certifier = {"kind": "Gaussian", "sigma": SIGMA, "n0": N0, "n": N, "alpha": ALPHA, "noise": Float32().to_dict()}
    asked = {"kind": "Certification", "certifier": certifier, "model": f"{number:016x}", "dataset": "mnist"}
    asked |= {"split": "test", "every": 1, "start": 0, "seed": 0}
    told = {"name": folder.name, "total": images, "cap": 1.91, "samples": N0 + N, "checksums": {}}
    (inside / "run.json").write_text(json.dumps(told | {"certification": asked}))
    shares = rng.beta(8 + number / 20, 0.6, images)
    lines = [json.dumps(_record(index, int(rng.binomial(N, share)), rng)) for index, share in enumerate(shares)]
    (inside / "records-0-of-1.jsonl").write_text("\n".join(lines) + "\n")


def _record(index: int, top: int, rng: np.random.Generator) -> dict:
    label = index % CLASSES
    winner = label if rng.random() < 0.95 else (label + 1) % CLASSES
    others = rng.multinomial(N - top, np.full(CLASSES - 1, 1 / (CLASSES - 1)))
    votes = {str((winner + 1 + place) % CLASSES): int(count) for place, count in enumerate(others) if count}
    evidence = FixedVotes(
        SIGMA, Float32(), N0, ALPHA, 0, 0.0, {str(winner): N0}, votes | ({str(winner): top} if top else {}), 0, N
    )
    claim = evidence.claim()
    proof = Certificate(claim.prediction, claim.radius, "l2", 1 - ALPHA, evidence.to_record())
    return {"index": index, "label": label, "certificate": asdict(proof)}


def measure(runs: Path) -> None:
    """Report the runs in this process, and print what it cost as JSON."""
    from holdfast.report.command import report

    wall, cpu = time.perf_counter(), time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        report([runs], runs.parent / f"{runs.name}-report")
    own, readers = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    reading = min(8, os.cpu_count() or 1)  # of all processes together, as if they shared nothing
    found = {
        "seconds": round(time.perf_counter() - wall, 1),
        "cpu_seconds": round(time.process_time() - cpu + readers.ru_utime + readers.ru_stime, 1),
        "mebibytes": (own.ru_maxrss + reading * readers.ru_maxrss) // 1024,
        "page_kilobytes": (runs.parent / f"{runs.name}-report" / "report.html").stat().st_size // 1000,
    }
    print(json.dumps(found))


def opening(page: Path) -> list[float]:
    """Seconds until the table of the page stands, in chromium that runs already: five times, each in a fresh tab."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        taken = []
        for _ in range(5):
            tab = browser.new_page(viewport={"width": 1400, "height": 900})
            start = time.perf_counter()
            tab.goto(page.resolve().as_uri())
            tab.wait_for_selector("#table tbody tr")
            taken.append(round(time.perf_counter() - start, 2))
            tab.close()
        browser.close()
    return taken


def main() -> None:
    """Print one line of JSON per number of runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, nargs="+", default=[10, 20, 50])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure:
        measure(asked.measure)
        return
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / "all"
        for number in range(max(asked.runs)):
            make(made / f"run-{number:03d}", number, asked.images)
        for count in asked.runs:
            some = Path(scratch) / f"first-{count}"
            some.mkdir()
            for run in sorted(made.iterdir())[:count]:
                (some / run.name).symlink_to(run)
            command = [sys.executable, __file__, "--measure", str(some)]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            opened = opening(Path(scratch) / f"first-{count}-report" / "report.html")
            print(json.dumps({"runs": count, "images": asked.images} | found | {"opened_seconds": opened}), flush=True)


if __name__ == "__main__":
    main()
