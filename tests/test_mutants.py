"""Break a line and see a test fail: the list of breaks, and the test that must notice each.

pytest -m slow tests/test_mutants.py
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

MUTANTS = [
    # file, the line as it is, the line broken, the tests that must fail
    ("smoothing/sampling.py", "top.values.isfinite()", "top.values.isfinite() | True", "test_certifiers.py"),
    ("smoothing/sampling.py", "self._used = 0", "self._used = 1", "test_certification.py"),
    ("smoothing/sampling.py", "alpha=sigma", "alpha=0.9 * sigma", "test_certifiers.py"),
    ("certifiers/gaussian.py", "(selection or votes)[:-1]", "votes[:-1]", "test_certifiers.py"),
    ("certifiers/gaussian.py", "self.alpha / 2 if", "self.alpha if", "test_certifiers.py"),
    ("checks.py", "images.min() >= 0 and", "", "test_certification.py"),
    ("checks.py", "if module.training:", "if False:", "test_certification.py"),
    ("certification.py", "certificate.radius > certifier.cap()", "False", "test_certification.py"),
    ("certification.py", "if index not in done", "", "test_certification.py"),
    ("certification.py", "[shard[0] :: shard[1]]", "[shard[0] :]", "test_certification.py"),
    ("store.py", "self._file.truncate(whole)", "whole", "test_store.py"),
    ("store.py", "!= record:", "is None:", "test_store.py"),
    ("store.py", '.split(b"\\n")[:-1]', '.split(b"\\n")', "test_store.py"),
    ("store.py", "if self._file.write(line) != len(line):", "if self._file.write(line) is None:", "test_store.py"),
    (
        "training.py",
        "_derive(recipe.seed, epoch, fabric.global_rank)",
        "_derive(recipe.seed, len(data))",
        "test_training.py",
    ),
    ("training.py", 'optimizer.load_state_dict(state["optimizer"])', "pass", "test_training.py"),
    ("data/embedded.py", "else ~held_out", "else held_out | True", "test_data.py"),
    ("loading.py", "weights_only=not self.allow_pickle", "weights_only=False", "test_cli.py"),
    ("smoothing/binomial.py", "n - np.maximum(counts, 1) + 1.0", "n - np.maximum(counts, 1) + 0.0", "test_binomial.py"),
    ("smoothing/sequential.py", "spending(self.alpha, ", "spending(2 * self.alpha, ", "test_sequential.py"),
    ("smoothing/radius_grid.py", "np.maximum.accumulate(counts, axis=1)", "counts - 1", "test_sequential.py"),
    ("smoothing/betting.py", "-math.log(alpha) + MARGIN", "-math.log(2 * alpha)", "test_sequential.py"),
    ("lipschitz/norms.py", "max(inputs + max(0, -min(shifts)), ", "max(inputs, ", "test_lipschitz_norms.py"),
    ("lipschitz/norms.py", "return max(_group_norm", "return min(_group_norm", "test_lipschitz_norms.py"),
    ("lipschitz/verified.py", "blocks[~_proven_below(blocks, limit)]", "blocks[:0]", "test_lipschitz_norms.py"),
    ("lipschitz/proofs.py", "if module.training and", "if False and", "test_lipschitz_layers.py"),
    ("lipschitz/proofs.py", "hashlib.sha256(content).digest()", "len(content)", "test_lipschitz_layers.py"),
    (
        "lipschitz/network.py",
        "network_bound(self.body, self.input_shape).norm * self",
        "float(self.norm_estimate()) * self",
        "test_margin.py",
    ),
    (
        "certifiers/margin.py",
        "radii.scatter_(1, top[:, None], math.inf)",
        "radii[margins == 0] = 9.0",
        "test_margin.py",
    ),
    ("certifiers/margin.py", "radii[~torch.isfinite(logits).all(1)] = 0.0", "logits", "test_margin.py"),
    ("certifiers/margin.py", "proven = margins - self.errors[top]", "proven = margins", "test_margin.py"),
    ("lipschitz/local.py", "risen / (risen + below)", "risen / (upper + below)", "test_local_bound.py"),
    ("lipschitz/local.py", "value - down, value + up", "value - 0.1 * down, value + 0.1 * up", "test_local_bound.py"),
    ("lipschitz/masked.py", "limit * identity - gram).info", "0 * gram + identity).info", "test_local_bound.py"),
    ("certifiers/split.py", "low, bound = middle, found", "low, bound = high, found", "test_split.py"),
    ("certifiers/split.py", "allowed / self.constant", "allowed", "test_split.py"),
    ("methods/splitz.py", "weight = 1 - t * (1 - self.weight)", "weight = self.weight", "test_split.py"),
    ("methods/emma.py", ".clamp(self.floor, 1).detach()", ".clamp(self.floor, 1)", "test_emma.py"),
    ("methods/gloro.py", "bottom - logits.logsumexp(1)", "bottom - logits.amax(1)", "test_emma.py"),
    ("optim.py", "% self.every == 0", "% self.every == 1", "test_emma.py"),
    ("attacking.py", ".all(0)", ".any(0)", "test_attack.py"),
    ("data/mixture.py", "round(self.ratio * len(indices))", "len(indices)", "test_training.py"),
    ("report/slack.py", "curve.accuracy(at * shrink)", "curve.accuracy(at / shrink)", "test_lipschitz_network.py"),
    ("report/logs.py", "rounding=ROUND_FLOOR", 'rounding="ROUND_HALF_EVEN"', "test_report_logs.py"),
    ("report/logs.py", "if correct != (predict == label)", "if False", "test_report_logs.py"),
    (
        "report/curve.py",
        "self.correct & (self.radii >= radius)",
        "self.correct & (self.radii > radius)",
        "test_report.py",
    ),
    ("report/curve.py", "self.correct & (self.radii >= radius)", "(self.radii >= radius)", "test_report.py"),
    ("report/estimate.py", "tail = (1 - level) / 2", "tail = 1 - level", "test_report_estimate.py"),
    ("report/estimate.py", "8 * m * lost * delta", "4 * m * lost * delta", "test_report_estimate.py"),
    (
        "report/estimate.py",
        "stats.binom.isf(rho, m, alpha)",
        "stats.binom.isf(3 * rho, m, alpha)",
        "test_report_estimate.py",
    ),
    ("report/compare.py", "mean(b.radii - a.radii)", "mean(a.radii - b.radii)", "test_report.py"),
    ("report/compare.py", "    if disagree:", "    if False:", "test_report.py"),
    ("report/published/__init__.py", "if not source.get(name)", "if False", "test_report.py"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("file", "line", "broken", "tests"), MUTANTS)
def test_a_broken_line_fails_its_test(tmp_path: Path, file: str, line: str, broken: str, tests: str) -> None:
    for part in ("src", "tests"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    path = tmp_path / "src" / "holdfast" / file
    text = path.read_text()
    assert line in text, f"{file} has changed; bring this list up to date"
    path.write_text(text.replace(line, broken))
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", f"tests/{tests}"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "src")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, f"no test noticed: {done.stdout[-2000:]}{done.stderr[-2000:]}"


def test_every_mutant_still_has_its_line() -> None:
    gone = [(file, line) for file, line, *_ in MUTANTS if line not in (ROOT / "src" / "holdfast" / file).read_text()]
    assert not gone
