"""A dossier is made of a finished run, says what it says in words, and cannot be changed without being rejected."""

import contextlib
import json
import math
import re
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from dossier_cases import CERTIFIER, Change, Forger, certify_folder, consistent

from holdfast import CertifiedRun, Float32, checker
from holdfast.cli import main
from holdfast.runs.certified import pack, required
from holdfast.runs.dossier import zipped
from holdfast.runs.find import find, read_facts

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw().hex()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return certify_folder(tmp_path / "certify-1")


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "key.pem"
    path.write_bytes(KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return path


def faults(path: Path, key: str | None = None) -> str:
    """Every reason to reject a dossier."""
    unseen = Counter[str]()
    return "\n".join(reason for holds, reason in checker.check_dossier(path, key, unseen) if not holds)


def setting(**changes: Any) -> Change:
    return lambda forger: forger.certifier.update(changes)


def proof(place: int, **changes: Any) -> Change:
    return lambda forger: forger.proof(place).update(changes)


def evidence(place: int, **changes: Any) -> Change:
    return lambda forger: forger.evidence(place).update(changes)


def alpha_after_the_fact(forger: Forger) -> None:
    """A larger alpha, in every place but the radii."""
    forger.everywhere(alpha=0.05)
    for record in forger.records:
        record["certificate"]["confidence"] = 1 - 0.05


def swap_labels(forger: Forger) -> None:
    forger.records[1]["label"], forger.records[2]["label"] = forger.records[2]["label"], forger.records[1]["label"]


def relabel(forger: Forger) -> None:
    forger.records[5]["label"] = forger.proof(5)["prediction"]


def raise_both(forger: Forger) -> None:
    forger.proof(1).update(radius=1.2)
    forger.evidence(1).update(p_lower=0.9918)


def more_votes_than_samples(forger: Forger) -> None:
    forger.everywhere(n=1100)
    forger.evidence(1).update(votes={"1": 1100})


RESEALED: dict[str, tuple[Change, str]] = {
    "radius raised": (proof(1, radius=1.1), "example 2: class 1 and radius 1.1"),
    "radius lowered": (proof(1, radius=0.9), "example 2: class 1 and radius 0.9"),
    "radius of an abstention": (proof(4, radius=0.1), "example 8: class None and radius 0.1"),
    "radius no number": (proof(1, radius=math.nan), "example 2: class 1 and radius nan"),
    "radius and bound raised together": (raise_both, "example 2: p_lower is 0.9918"),
    "class changed to the label": (proof(5, prediction=1), "example 10: class 1"),
    "an abstention turned into a claim": (proof(4, prediction=1, radius=0.02), "example 8: class 1"),
    "votes added": (evidence(1, votes={"1": 1000, "0": 10}), "1010 votes were counted, of n = 1000"),
    "votes moved": (evidence(1, votes={"1": 995, "0": 5}), "example 2: p_lower is"),
    "negative votes": (evidence(1, votes={"1": 1010, "0": -10}), "votes are numbers of samples"),
    "half a vote": (evidence(1, votes={"1": 999.5, "0": 0.5}), "votes are numbers of samples"),
    "more votes for the class than samples": (evidence(1, selection={"1": 101}), "impossible votes for the class"),
    "n raised": (more_votes_than_samples, "example 0: 1000 votes were counted, of n = 1100"),
    "n raised in the settings": (setting(n=100_000), "n is 1000 in the evidence and 100000 in the settings"),
    "alpha raised in the settings": (setting(alpha=0.05), "alpha is 0.001 in the evidence and 0.05"),
    "alpha left out": (lambda forger: forger.certifier.pop("alpha"), "alpha is 0.001 in the evidence and None"),
    "alpha changed after the fact": (alpha_after_the_fact, "example 2: p_lower is"),
    "alpha of the evidence": (lambda forger: forger.everywhere(alpha=0.05), "example 2: p_lower is"),
    "sigma raised in the settings": (setting(sigma=1.0), "sigma is 0.5 in the evidence and 1.0 in the settings"),
    "sigma left to the model": (setting(sigma="own"), "sigma is 0.5 in the evidence and own in the settings"),
    "sigma raised everywhere": (lambda forger: forger.everywhere(sigma=1.0), "example 2: class 1 and radius"),
    "delta left out": (evidence(1, delta=0.0), "delta is 0.0 and 1e-09 is needed"),
    "noise renamed": (evidence(1, noise={"kind": "Float32"}), "noise is {'kind': 'Float32'} in the evidence"),
    "two classes bounded": (evidence(1, two_class=True), "two_class is True in the evidence and False"),
    "a lucky random number": (evidence(1, w=0.0), "the random number w is 0.0"),
    "another certifier": (setting(kind="Adaptive"), "the evidence is FixedVotes and Adaptive leaves AdaptiveVotes"),
    "another norm": (proof(1, norm="linf"), "confidence and norm"),
    "certainty": (proof(1, confidence=1.0), "confidence and norm"),
    "evidence removed": (lambda forger: forger.proof(1).update(evidence={}), "the evidence is None"),
    "a record doubled": (lambda forger: forger.records.append(forger.records[0]), r"doubled or not asked for: \[0\]"),
    "a record dropped": (lambda forger: forger.records.pop(3), r"missing: \[6\]"),
    "a better example instead": (lambda forger: forger.records[3].update(index=7), r"not asked for: \[7\]"),
    "another order": (lambda forger: forger.records.reverse(), "not in order"),
    "a label changed": (relabel, "the labels are not those"),
    "two labels swapped": (swap_labels, "the labels are not those"),
    "a label as text": (lambda forger: forger.records[0].update(label="1"), "cannot be read"),
}
"""What a forger who makes all hashes fit again can change, and why it is rejected."""


@pytest.mark.parametrize("name", RESEALED)
def test_a_forgery_is_found_in_the_numbers_even_with_all_hashes_made_anew(
    name: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, reason = RESEALED[name]
    forger = Forger.open(pack(folder).path)
    change(forger)
    forger.seal()
    unseen = Counter[str]()
    assert checker.tell(checker.check_dossier(forger.write(tmp_path / "forged.zip"), None, unseen), unseen)
    said = capsys.readouterr().out
    assert re.search(reason, said), said
    assert said.endswith("REJECTED\n")


def total(**changes: Any) -> Change:
    return lambda forger: forger.content["totals"].update(changes)


HASHES: dict[str, tuple[Change, str]] = {
    "accuracy raised": (total(correct=6), "its totals are"),
    "fewer can be wrong": (total(wrong_at_most=0), "its totals are"),
    "alpha of the totals": (total(alpha=1e-6), "its totals are"),
    "a radius counted twice": (lambda forger: forger.content["totals"]["certified"].update({"0.5": 6}), "its totals"),
    "model replaced": (
        lambda forger: forger.content["run"]["certification"].update(model="f" * 16),
        "settings and records are not those of the chain",
    ),
    "data replaced": (
        lambda forger: forger.content["run"]["checksums"].update(images="f" * 16),
        "settings and records are not those of the chain",
    ),
    "a record edited by hand": (lambda forger: forger.records[0].update(label=7), r"doubled: \['records.jsonl'\]"),
    "checker replaced": (lambda forger: forger.files.update({"verify.py": b"print('holds')"}), r"\['verify.py'\]"),
    "a file added": (lambda forger: forger.files.update({"note.txt": b"trust me"}), r"\['note.txt'\]"),
    "a file left out": (lambda forger: forger.files.pop("verify.py"), r"\['verify.py'\]"),
}
"""What a forger changes who leaves the hashes alone."""


@pytest.mark.parametrize("name", HASHES)
def test_a_change_without_new_hashes_is_found_by_them(name: str, folder: Path, tmp_path: Path) -> None:
    change, reason = HASHES[name]
    forger = Forger.open(pack(folder).path)
    change(forger)
    assert re.search(reason, faults(forger.write(tmp_path / "forged.zip")))


def another_model(forger: Forger) -> None:
    forger.content["run"]["certification"]["model"] = "f" * 16
    forger.seal()


def unsigned(forger: Forger) -> None:
    forger.content["signer"] = None
    del forger.files["signature.txt"]


def signed_by_another(forger: Forger) -> None:
    other = Ed25519PrivateKey.from_private_bytes(bytes(32))
    forger.content["signer"] = other.public_key().public_bytes_raw().hex()
    body = (json.dumps(forger.content) + "\n").encode()
    forger.files["signature.txt"] = other.sign(body).hex().encode()


SIGNED: dict[str, tuple[Change, str]] = {
    "votes forged consistently": (consistent, "the signature is not that of"),
    "another model, hashes made anew": (another_model, "the signature is not that of"),
    "words of the claim": (lambda forger: forger.content.update(claim=["all is well"]), "the signature is not that of"),
    "machine and times": (lambda forger: forger.content.update(made=[]), "the signature is not that of"),
    "signature removed": (lambda forger: forger.files.pop("signature.txt"), "the signature is not that of"),
    "signature of another": (lambda forger: forger.files.update({"signature.txt": b"00" * 64}), "the signature is not"),
    "signer and signature removed": (unsigned, "it is signed by None, expected"),
    "signed by another key": (signed_by_another, f"expected {PUBLIC}"),
}
"""What only a signature shows."""


@pytest.mark.parametrize("name", SIGNED)
def test_what_fits_together_is_found_by_the_signature(name: str, folder: Path, key: Path, tmp_path: Path) -> None:
    change, reason = SIGNED[name]
    forger = Forger.open(pack(folder, key=key).path)
    change(forger)
    assert re.search(reason, faults(forger.write(tmp_path / "forged.zip"), PUBLIC))


def test_votes_forged_consistently_pass_without_a_signature_and_the_checker_says_that_they_can(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forger = Forger.open(pack(folder).path)
    consistent(forger)
    unseen = Counter[str]()
    assert not checker.tell(checker.check_dossier(forger.write(tmp_path / "forged.zip"), None, unseen), unseen)
    said = capsys.readouterr().out
    assert "votes: forged consistently, they show in a signature or --replay only (6)" in said
    assert "not checked: signature: there is none" in said


@pytest.mark.parametrize("name", ["claim", "model", "data", "arithmetic", "assumptions", "limitations"])
def test_words_of_an_unsigned_dossier_are_those_that_follow_from_its_run(
    name: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are what is read first, and what somebody who cannot forge a vote would change."""
    forger = Forger.open(pack(folder).path)
    forger.content[name] = {"identity": "f" * 16} if name == "model" else ["All images are certified at 5."]
    forged = forger.write(tmp_path / "forged.zip")
    with pytest.raises(SystemExit, match="1"):
        main(["verify", str(forged)])
    assert f"its {name}: not what follows from its run" in " ".join(capsys.readouterr().out.split())


def test_a_name_twice_in_the_zip_is_refused(folder: Path) -> None:
    path = pack(folder).path
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("verify.py", (folder.parents[0] / "certify-1" / "run.json").read_bytes())
    assert "doubled" in faults(path)


def test_an_honest_dossier_holds_and_is_the_same_bytes_again(folder: Path, key: Path, tmp_path: Path) -> None:
    first = pack(folder, tmp_path / "a.zip", key=key)
    assert first.signer == PUBLIC
    assert not faults(first.path, PUBLIC)
    second = pack(folder, tmp_path / "b.zip", key=key)
    assert first.path.read_bytes() == second.path.read_bytes()


def test_a_signature_cannot_be_checked_without_cryptography_and_that_is_said(
    folder: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, unseen = pack(folder, key=key).path, Counter[str]()
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.asymmetric.ed25519", None)
    assert all(holds for holds, _ in checker.check_dossier(path, None, unseen))
    assert unseen["signature: install cryptography"] == 1
    assert "--key asks for cannot be checked: install cryptography" in faults(path, PUBLIC)


def test_a_dossier_says_what_holds_for_all_of_it(folder: Path) -> None:
    packed = pack(folder)
    content = Forger.open(packed.path).content
    assert packed.totals.examples == 6
    assert packed.totals.correct == 4
    assert packed.totals.abstained == 1
    assert packed.totals.wrong_at_most == 1  # P(more than 1 of 6 wrong) at alpha = .001 is 1.5e-5, P(any) .006
    assert packed.totals.certified["0.5"] == 4
    assert packed.totals.at_least(0.5) == pytest.approx(3 / 6)
    claim = " ".join(content["claim"])
    assert "l2 norm (pixels in [0, 1])" in claim
    assert "no more than 1 are wrong, with probability 99.9 %" in claim
    assert content["data"]["indices"] == "0 to 10 in steps of 2: 6 examples"
    assert content["made"][0]["torch"] == "2.13.0"


def test_what_a_dossier_holds_is_read_back_as_the_run(folder: Path, tmp_path: Path) -> None:
    found, whole = CertifiedRun.open(pack(folder, tmp_path / "certify-1.zip").path), CertifiedRun.open(folder)
    assert found == whole
    assert found.alpha == CERTIFIER.alpha


@pytest.mark.parametrize("format", ["parquet", "tsv"])
def test_what_is_exported_is_read_back_with_alpha_and_all_settings(format: str, folder: Path, tmp_path: Path) -> None:
    main(["export", str(folder), "--format", format, "--out", str(tmp_path)])
    found, whole = CertifiedRun.open(tmp_path / f"certify-1.{format}"), CertifiedRun.open(folder)
    for name in ("name", "settings", "total", "cap", "most_samples", "alpha", "alpha_spent", "norm"):
        assert getattr(found, name) == getattr(whole, name), name
    for one, other in zip(found.records, whole.records, strict=True):
        assert (one.index, one.label, one.correct) == (other.index, other.label, other.correct)
    assert (found.records == whole.records) == (format == "parquet")
    assert (whole.radii >= found.radii).all()
    assert whole.radii == pytest.approx(found.radii, abs=1e-9)


@pytest.mark.parametrize(("needed", "status"), [("0.5@0.5", 0), ("0.51@0.5", 1), ("0.0@3.0", 0), ("0.1@3.0", 1)])
def test_a_required_accuracy_decides_the_exit_status(needed: str, status: int, folder: Path) -> None:
    with pytest.raises(SystemExit, match="1") if status else contextlib.nullcontext():
        main(["dossier", str(folder), "--require", needed])


def test_a_requirement_is_an_accuracy_at_a_radius() -> None:
    assert required("0.8@0.25") == (0.8, 0.25)
    for text in ("0.8", "80@0.25", "0.8@-1", "a@b", "nan@1"):
        with pytest.raises(ValueError, match="expected ACCURACY@RADIUS"):
            required(text)


def test_alphas_of_runs_seen_before_are_added(tmp_path: Path) -> None:
    before = {"run": "certify-0", "changed": {"n": [100, 1000]}, "earlier_alphas": {"certify-0": 0.002}}
    folder = certify_folder(tmp_path / "certify-1", revises=before)
    packed = pack(folder)
    assert packed.totals.alpha == pytest.approx(0.003)
    assert CertifiedRun.open(folder).alpha_spent == pytest.approx(0.003)
    assert not faults(packed.path)
    forger = Forger.open(packed.path)
    forger.content["run"]["revises"]["earlier_alphas"]["certify-0"] = -0.002
    forger.seal()
    forger.content["totals"]["alpha"] = -0.001
    assert "its totals are" in faults(forger.write(tmp_path / "forged.zip"))


def test_an_unfinished_run_has_no_dossier(folder: Path) -> None:
    records = folder / "records-0-of-1.jsonl"
    records.write_bytes(b"".join(records.read_bytes().splitlines(keepends=True)[:3]))
    with pytest.raises(ValueError, match="holds 3 of 6 records: finish it first"):
        pack(folder)
    assert not list(folder.parent.glob("*.zip"))


def test_a_key_of_another_sort_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text("no key")
    with pytest.raises(ValueError, match="holds no private key in PEM form"):
        pack(folder, key=tmp_path / "key.pem")
    assert not list(folder.parent.glob("*.zip"))


def test_a_model_that_is_not_there_cannot_be_packed(folder: Path) -> None:
    with pytest.raises(ValueError, match="holds no model to pack"):
        pack(folder, model=True)


def test_votes_of_an_older_version_are_checked_in_the_words_of_today(folder: Path) -> None:
    """Without a word on noise, and without a checksum of the data: both are named."""
    old = {"kind": "Gaussian", "sigma": 0.5, "n0": 100, "n": 1000, "alpha": 0.001, "two_class": False}
    facts = json.loads((folder / "run.json").read_text())
    del facts["checksums"]
    facts["certification"]["certifier"], facts["cap"] = old, None
    (folder / "run.json").write_text(json.dumps(facts))
    path = folder / "records-0-of-1.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        kept = {"selection", "votes", "invalid", "sigma", "n0", "n", "alpha"}
        evidence = {name: value for name, value in record["certificate"]["evidence"].items() if name in kept}
        new = CERTIFIER.replace(noise=Float32())._evidence(evidence["selection"], evidence["votes"], 0, None, 0)
        proof = CERTIFIER.certificate(new)
        record["certificate"] |= {"radius": proof.radius, "prediction": proof.prediction, "evidence": evidence}
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    forger = Forger.open(pack(folder).path)
    assert not faults(folder.parent / "certify-1.zip")
    assert "No checksum of the images and labels was kept." in forger.content["limitations"]
    assert "real arithmetic" in forger.content["arithmetic"]
    forger.proof(1).update(radius=1.1)
    forger.seal()
    assert "class 1 and radius 1.1" in faults(forger.write(folder.parent / "forged.zip"))


def test_a_dossier_is_reported_like_its_run(folder: Path, tmp_path: Path) -> None:
    path = pack(folder).path
    found, left_out = find([path.parent])
    assert found == [folder]
    assert "was exported from" in left_out[0]
    assert read_facts(path)["certification"] == read_facts(folder)["certification"]


def test_what_is_no_dossier_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    path.write_bytes(b"no zip")
    for wrong in (b"no zip", zipped({"dossier.json": b"[]", "records.jsonl": b""}), zipped({"a": b""})):
        path.write_bytes(wrong)
        with pytest.raises(ValueError, match=r"x\.zip is no dossier"):
            CertifiedRun.open(path)


@pytest.mark.parametrize("way", ["folder", "parquet", "zip"])
def test_the_command_checks_runs_tables_and_dossiers(
    way: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pack(folder, tmp_path / "certify-1.zip")
    main(["export", str(folder), "--format", "parquet", "--out", str(tmp_path)])
    main(["verify", str(folder if way == "folder" else tmp_path / f"certify-1.{way}")])
    assert "all that could be checked holds" in capsys.readouterr().out


def test_an_export_without_votes_is_not_audited_as_a_published_log(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["export", str(folder), "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="2"):
        main(["verify", str(tmp_path / "certify-1.tsv"), "--sigma", "0.5", "--n", "1000", "--alpha", "0.001"])
    assert "verify its run, dossier or .parquet" in capsys.readouterr().err


def test_the_dossier_in_the_documents_holds(tmp_path: Path) -> None:
    """By the program in it, which is that of today, from an empty directory and without holdfast."""
    root = Path(__file__).parents[1]
    (key,) = re.findall(r"\b[0-9a-f]{64}\b", (root / "docs" / "evidence.md").read_text())
    path = root / "docs" / "mnist-dossier.zip"
    assert not faults(path, key)
    with zipfile.ZipFile(path) as archive:
        archive.extract("verify.py", tmp_path)
    assert (tmp_path / "verify.py").read_bytes() == Path(checker.__file__).read_bytes()
    done = subprocess.run(
        [sys.executable, "-I", "verify.py", str(path), "--key", key], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "all that could be checked holds")
    facts, run = read_facts(path), CertifiedRun.open(path)
    assert facts["checksums"].keys() == {"images", "labels"}
    assert run.settings["noise"]["kind"] == "Lattice"
    assert int(run.reaches(0.5).sum()) == 478
    assert len(run) == 500
    assert not run.unfinished


@pytest.mark.parametrize("key", ["00" * 32, ""])
def test_a_signature_is_asked_of_dossiers_alone(key: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["verify", str(folder), "--key", key])
    assert "has no signature that --key could check" in capsys.readouterr().err


@pytest.mark.parametrize("key", [PUBLIC, ""])
@pytest.mark.parametrize("source", ["certify-1", "log.tsv"])
def test_the_file_alone_rejects_what_has_no_signature_when_one_is_asked_for(
    source: str, key: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder.parent / "log.tsv").write_text("idx\tlabel\tpredict\tradius\tcorrect\ttime\n0\t1\t1\t1.91\t1\t0:00\n")
    settings = ["--sigma", "0.5", "--n", "100000", "--alpha", "0.001"]
    monkeypatch.setattr(sys, "argv", ["verify.py", str(folder.parent / source), *settings])
    assert not checker.main()
    assert capsys.readouterr().out.endswith("all that could be checked holds\n")
    sys.argv += ["--key", key]
    assert checker.main()
    said = capsys.readouterr().out.splitlines()
    assert said == ["wrong: only a .zip has the signature --key asks for", "REJECTED"]


@pytest.mark.parametrize("total", [7, 10**30])
def test_a_total_beyond_all_records_is_rejected_soon(total: int, folder: Path) -> None:
    run = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(run | {"total": total}))
    (reason,) = (reason for holds, reason in checker.check_folder(folder, Counter()) if not holds)
    assert "missing: [12" in reason
