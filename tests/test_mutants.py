"""Break a function and see a test fail: the list of breaks, and the tests that must notice each.

make mutants
"""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "holdfast"


class Mutant(NamedTuple):
    """A function of a room, by its name, with a part of it as it is and as it is broken."""

    room: str
    function: str
    part: str
    broken: str
    tests: str


MUTANTS = [
    Mutant(*row)
    for row in (
        ("smoothing", "winners", "top.values.isfinite()", "top.values.isfinite() | True", "test_votes.py"),
        ("smoothing", "add_votes", "best if isfinite(top) else logits.shape[1]", "best", "test_votes.py"),
        ("smoothing", "add_votes", "<= top or top != top", "< top or top != top", "test_votes.py"),
        ("smoothing", "count", "votes[group] = 0", "pass", "test_votes.py"),
        ("smoothing", "Float32Stream.fill", "self._used = 0", "self._used = 1", "test_certification.py"),
        ("smoothing", "Float32Stream.fill", "alpha=self._sigma", "alpha=0.9 * self._sigma", "test_certification.py"),
        ("smoothing", "LatticeStream.__init__", "Fraction(sigma) *", "Fraction(0.9 * sigma) *", "test_certifiers.py"),
        ("smoothing", "SamplingEvidence.__post_init__", "needed <= self.delta", "0 <= self.delta", "test_evidence.py"),
        ("smoothing", "_streams", "if finite[row] else", "if True else", "test_noise_certificates.py"),
        ("smoothing", "less", "share - delta", "share", "test_noise_definition.py"),
        ("smoothing", "SamplingEvidence.top", "self.selection if self.n0 else", "", "test_certifiers.py"),
        ("smoothing", "FixedVotes.level", "self.alpha / 2 if", "self.alpha if", "test_certifiers.py"),
        ("smoothing", "claim_on_grid", "max(int(", "1 + max(int(", "test_early_stopping.py"),
        ("certifiers", "advance", "votes.counts[-1] < go_on_at", "votes.counts[-1] >= go_on_at", "test_stopping.py"),
        ("smoothing", "StoppedVotes.p_lower", "self.counts[-1]", "self.counts[-1] + 1", "test_stopping.py"),
        ("smoothing", "StoppedVotes.__post_init__", "all(went_on[:-1])", "True", "test_evidence.py"),
        (
            "smoothing",
            "lower_bounds",
            "n - np.maximum(counts, 1) + 1.0",
            "n - np.maximum(counts, 1)",
            "test_binomial.py",
        ),
        (
            "smoothing",
            "GroupSequential._certify",
            "spending(self.alpha",
            "spending(2 * self.alpha",
            "test_sequential.py",
        ),
        (
            "smoothing",
            "RadiusBoundaries.certify_at",
            "np.maximum.accumulate(counts, axis=1)",
            "counts - 1",
            "test_sequential.py",
        ),
        ("smoothing", "kt_lower", "math.log(alpha) - MARGIN", "math.log(2 * alpha)", "test_sequential.py"),
        ("core", "_check_claim", "or not _close(claim.radius, certificate.radius)", "", "test_evidence.py"),
        ("core", "MarginEvidence.claim", "(self.margin - self.error)", "self.margin", "test_margin.py"),
        ("core", "L2.project", ".clamp(max=1)", "", "test_threat.py"),
        ("certification", "check_images", "images.min() >= 0 and", "", "test_certification.py"),
        ("certification", "_check_parts", "if module.training:", "if False:", "test_certification.py"),
        ("certification", "stream", "certificate.radius > certifier.cap()", "False", "test_certification.py"),
        ("certification", "missing", "if index not in done", "", "test_certification.py"),
        ("certification", "certify_share", "[shard[0] :: shard[1]]", "[shard[0] :]", "test_certify_run.py"),
        ("certification", "same_model", "identity != task.model", "False", "test_certify_run.py"),
        ("certification", "same_data", "found.get(what) != expected[what]", "False", "test_certify_run.py"),
        ("certification", "survives", ".all(0)", ".any(0)", "test_attack.py"),
        ("runs", "RecordWriter.__init__", "self._file.truncate(whole)", "whole", "test_store.py"),
        ("runs", "read_checked", "!= new.record:", "is None:", "test_store.py"),
        ("runs", "_read_file", r'not line.endswith(b"\n")', "False", "test_store.py"),
        ("runs", "RecordWriter.write", "!= len(lines):", "is None:", "test_store.py"),
        ("runs", "_line", "rounding=ROUND_FLOOR", 'rounding="ROUND_HALF_EVEN"', "test_report_logs.py"),
        ("runs", "_parse", "if correct != (predict == label)", "if False", "test_report_logs.py"),
        ("runs", "CertifiedRun.reaches", "(self.radii >= radius)", "(self.radii > radius)", "test_report.py"),
        ("runs", "CertifiedRun.reaches", "self.correct & ", "", "test_report.py"),
        (
            "training",
            "_begin",
            "_derive(recipe.seed, epoch, 0)",
            "_derive(recipe.seed, id(plain))",
            "test_training.py",
        ),
        (
            "training",
            "Checkpoint.resume",
            'self._optimizer.load_state_dict(state["optimizer"])',
            "pass",
            "test_training.py",
        ),
        ("data", "_split", "else ~held_out", "else held_out | True", "test_data.py"),
        ("data", "Mixture.drawn", "round(self.ratio * count)", "count", "test_training.py"),
        ("formats", "_unpickled", "weights_only=not allow_pickle", "weights_only=False", "test_cli.py"),
        (
            "bounds",
            "Axis._smallest_grid",
            "max(inputs + max(0, -min(shifts)), ",
            "max(inputs, ",
            "test_lipschitz_norms.py",
        ),
        ("bounds", "conv2d_norm", "return max(_group_norm", "return min(_group_norm", "test_lipschitz_norms.py"),
        ("bounds", "norm_of_grams", "part[~_proven_below(part, limit)]", "part[:0]", "test_lipschitz_norms.py"),
        ("bounds", "TapProducts.of", "lag >= (0, 0)", "lag > (0, 0) or not sums", "test_lipschitz_norms.py"),
        ("bounds", "remembered", "hashlib.sha256(content).hexdigest()", "len(content)", "test_lipschitz_layers.py"),
        ("bounds", "_limit", "limit * identity - gram).info", "0 * gram + identity).info", "test_local_bound.py"),
        ("bounds", "slopes", "risen / (risen + below)", "risen / (box.upper + below)", "test_local_bound.py"),
        ("program", "capture", "if hooks_for_all():", "if False:", "test_margin_breaks.py"),
        ("program", "capture", "if training := [", "if False and [", "test_lipschitz_layers.py"),
        (
            "certifiers",
            "Proof.evidence",
            "radii.scatter_(1, top[:, None], math.inf)",
            "radii[margins == 0] = 9.0",
            "test_margin.py",
        ),
        ("certifiers", "Split._radius", "low, bound = middle, found", "low, bound = high, found", "test_split.py"),
        ("certifiers", "Split._radius", "allowed / constant", "allowed", "test_split.py"),
        ("methods", "Splitz.loss", "weight = 1 - t * (1 - self.weight)", "weight = self.weight", "test_split.py"),
        ("methods", "Emma.logits", ".clamp(self.floor, 1).detach()", ".clamp(self.floor, 1)", "test_emma.py"),
        ("methods", "Gloro.loss", "bottom - logits.logsumexp(1)", "bottom - logits.amax(1)", "test_emma.py"),
        ("optim.py", "LookaheadNAdam._look_ahead", "% self.every == 0", "% self.every == 1", "test_emma.py"),
        (
            "report",
            "_claims",
            "curve.accuracy(at * shrink)",
            "curve.accuracy(at / shrink)",
            "test_lipschitz_network.py",
        ),
        ("report", "clopper_pearson", "tail = (1 - level) / 2", "tail = 1 - level", "test_report_estimate.py"),
        ("report", "_tango_score", "8 * m * lost * delta", "4 * m * lost * delta", "test_report_estimate.py"),
        (
            "report",
            "most_wrong",
            "stats.binom.isf(rho, m, alpha)",
            "stats.binom.isf(3 * rho, m, alpha)",
            "test_report_estimate.py",
        ),
        ("report", "_compare", "mean(b - a)", "mean(a - b)", "test_report.py"),
        ("report", "why_not", "int(np.sum(first.classes[here] != second.classes[there]))", "0", "test_report.py"),
        ("report", "_read", "if not source.get(name)", "if False", "test_report.py"),
    )
]


def found(mutant: Mutant, source: Path = SOURCE) -> tuple[Path, int]:
    """The file of a mutant's function, and where in it the part begins: wherever in its room the function stands."""
    places = []
    for path in [source / mutant.room] if mutant.room.endswith(".py") else sorted((source / mutant.room).rglob("*.py")):
        text = path.read_text()
        for name, node in functions(ast.parse(text)):
            if name == mutant.function and mutant.part in (code := code_of(text, node)):
                places.append((path, text.index(ast.get_source_segment(text, node) or "") + code.index(mutant.part)))
    if len(places) != 1:
        raise LookupError(f"{mutant.room}: {len(places)} functions {mutant.function} hold {mutant.part!r}")
    return places[0]


def code_of(text: str, function: ast.FunctionDef) -> str:
    """The source of a function, with spaces for its docstring: words of that are no break."""
    code = ast.get_source_segment(text, function) or ""
    if ast.get_docstring(function) is None:
        return code
    words = ast.get_source_segment(text, function.body[0]) or ""
    return code.replace(words, " " * len(words), 1)


def functions(tree: ast.AST, prefix: str = "") -> list[tuple[str, ast.FunctionDef]]:
    """All functions with their names, those of classes behind the name of the class."""
    named = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef):
            named.append((prefix + node.name, node))
        elif isinstance(node, ast.ClassDef):
            named += functions(node, f"{prefix}{node.name}.")
    return named


def copied(folder: Path) -> Path:
    """A copy of the house whose source may be broken; what its tests read besides is where it was."""
    for path in ROOT.iterdir():
        if path.name in ("src", "tests"):
            shutil.copytree(path, folder / path.name, ignore=shutil.ignore_patterns("__pycache__"))
        elif not path.name.startswith("."):
            (folder / path.name).symlink_to(path)
    return folder


def run(folder: Path, tests: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", f"tests/{tests}"]
    environment = os.environ | {"PYTHONPATH": str(folder / "src")}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("tests", sorted({mutant.tests for mutant in MUTANTS}))
def test_the_tests_pass_on_a_copy_that_is_not_broken(tmp_path: Path, tests: str) -> None:
    done = run(copied(tmp_path), tests)
    assert done.returncode == 0, f"what they notice would mean nothing: {done.stdout[-2000:]}{done.stderr[-2000:]}"


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.function}-{mutant.part}")
def test_a_broken_function_fails_its_test(tmp_path: Path, mutant: Mutant) -> None:
    path, start = found(mutant, copied(tmp_path) / "src" / "holdfast")
    text = path.read_text()
    path.write_text(text[:start] + mutant.broken + text[start + len(mutant.part) :])
    done = run(tmp_path, mutant.tests)
    assert done.returncode == 1, f"no test noticed: {done.stdout[-2000:]}{done.stderr[-2000:]}"


def test_every_mutant_still_has_its_function() -> None:
    gone = []
    for mutant in MUTANTS:
        try:
            found(mutant)
        except LookupError as error:
            gone.append(str(error))
    assert not gone
