"""Noise as a setting of certificates: what it is charged, that old runs keep theirs, that only seeds decide votes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cases import CERTIFIERS, SHAPE, HalfSpace, behind_a_half, grey, images
from report_cases import FOUR, certify_folder
from test_certification import DATA
from torch import Tensor, nn

from holdfast import CertifiedRun, Gaussian, SmoothedClassifier, Split, SplitClassifier, certify
from holdfast.certification.determinism import determinism
from holdfast.certification.driver import certify_share
from holdfast.certification.task import Certification, open_certification
from holdfast.core.certificate import Evidence
from holdfast.core.certifier import Certifier, Seed
from holdfast.report.summary import summarise
from holdfast.runs.store import entries
from holdfast.smoothing.certifier import SamplingCertifier
from holdfast.smoothing.evidence import SamplingEvidence, SplitEvidence
from holdfast.smoothing.noise import Float32, Lattice
from holdfast.smoothing.radius_tests import DesignVotes

SAMPLED = {name: case for name, case in CERTIFIERS.items() if case.certifier.sampling}


class TestDelta:
    @pytest.mark.parametrize("case", SAMPLED.values(), ids=SAMPLED)
    def test_every_certificate_by_sampling_is_charged_for_its_noise(self, case) -> None:
        near = grey(1) + 0.15 * HalfSpace().get_buffer("w").view(1, *SHAPE)  # class 0 has 0.62 of the votes
        (certificate,) = certify(case.classifier(), near, case.certifier, seed=0)
        evidence = Evidence.from_record({k: v for k, v in certificate.evidence.items() if k not in ("seed", "index")})
        inner = evidence.inner if isinstance(evidence, SplitEvidence) else evidence
        assert isinstance(inner, SamplingEvidence)
        assert (inner.noise, inner.numbers) == (Lattice(), 48)
        assert inner.delta == Lattice().delta(inner.sigma, 48) == 1e-9
        for forged in (0.0, 0.99e-9, -1.0, float("nan")):
            with pytest.raises(ValueError, match=r"expected a delta in .* was it edited"):
                inner.replace(delta=forged)
        with pytest.raises(ValueError, match="was it edited"):
            inner.replace(numbers=-1)
        if isinstance(inner, DesignVotes):  # its tests were made for the delta of the noise
            with pytest.raises(ValueError, match="errs with probability"):
                inner.replace(delta=0.11).claim()
            return
        assert inner.claim() != inner.replace(delta=0.11).claim() == (None, 0.0)

    def test_delta_grows_with_the_numbers_where_its_floor_no_longer_hides_that(self) -> None:
        (certificate,) = certify(HalfSpace(), images(1), Gaussian(0.5, n=300), seed=0)
        data = {k: v for k, v in certificate.evidence.items() if k not in ("seed", "index")}
        with pytest.raises(ValueError, match="noise on 1000000000 numbers, expected a delta in"):
            Evidence.from_record(data | {"numbers": 10**9})

    def test_a_prediction_is_charged_for_all_samples_together(self) -> None:
        """1,000 samples are 1e-6 from ideal ones: nothing can be said with less doubt than that."""
        smoothed = SmoothedClassifier(lambda x: torch.tensor([[0.0, 1.0]]).expand(len(x), -1), Gaussian(0.5))
        assert smoothed.predict(grey(1), alpha=2e-6, seed=0).tolist() == [1]
        assert smoothed.predict(grey(1), alpha=0.9e-6, seed=0).tolist() == [-1]

    def test_a_noise_that_does_not_go_with_sigma_is_refused_before_any_work(self) -> None:
        for wrong in (lambda: Gaussian(300.0), lambda: Gaussian(1e-7), lambda: Gaussian(0.5, noise=Lattice(2.0**-30))):
            with pytest.raises(ValueError, match="needs a step between"):
                wrong()


class TestOldRuns:
    def test_settings_without_noise_are_those_of_float32_noise(self) -> None:
        for case in SAMPLED.values():
            stored = json.loads(json.dumps(case.certifier.to_dict()))
            for settings in (stored, stored.get("inner", {})):
                settings.pop("noise", None)
            found = Certifier.from_dict(stored).sampling
            assert found is not None
            assert found.noise == Float32()
            assert Certifier.from_dict(case.certifier.to_dict()) == case.certifier

    def test_an_old_run_is_not_continued_with_other_noise_and_is_told_why(self, tmp_path: Path) -> None:
        task, folder = Certification(Gaussian(0.5, n=300), "m", "toy"), tmp_path / "run"
        open_certification(task, folder, DATA, "toy")
        run = json.loads((folder / "run.json").read_text())
        del run["certification"]["certifier"]["noise"]
        (folder / "run.json").write_text(json.dumps(run))
        with pytest.raises(
            ValueError, match=r"noise\.kind: 'Float32' there \(its run\.json does not say.*'Lattice' now"
        ):
            open_certification(task, folder, DATA, "toy")
        float32 = Certification(Gaussian(0.5, n=300, noise=Float32()), "m", "toy")
        open_certification(float32, folder, DATA, "toy")

    def test_a_report_names_the_noise_of_every_run(self, tmp_path: Path) -> None:
        old = certify_folder(tmp_path / "old" / "certify-1", FOUR, name="old")
        noise = {"kind": "Lattice", "step": None}
        new = certify_folder(tmp_path / "new" / "certify-1", FOUR, name="new", certifier={"noise": noise})
        report = summarise([old, new])
        runs = report.tables[0]
        assert [row[runs.header.index("noise")] for row in runs.rows] == ["Float32", "Lattice"]
        notes = "\n".join(report.notes)
        assert "noise differs (A: Float32; B: Lattice)" in notes
        assert "A: the noise was added in float32" in notes

    def test_the_noise_inside_of_split_is_named_too(self, tmp_path: Path) -> None:
        inner = {"kind": "Gaussian", "sigma": 0.5, "n": 100, "alpha": 0.001}
        settings = {"kind": "Split", "inner": inner, "sigma": None}
        old = certify_folder(tmp_path / "old" / "certify-1", FOUR, certifier=settings)
        assert CertifiedRun.open(old).settings["inner"]["noise"] == {"kind": "Float32"}
        assert "A: the noise was added in float32" in "\n".join(summarise([old]).notes)


class Poisoned(nn.Module):
    """Features that are no numbers for images with a dark first pixel."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x[:, :1, :1, :1] > 0.5, x, self.value)


class Always(nn.Module):
    """Class 1, whatever comes."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tensor([[0.0, 1.0]]).expand(len(x), -1)


class TestFeatures:
    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_features_that_are_not_finite_abstain_and_their_neighbors_do_not(self, value: float) -> None:
        x = torch.stack([torch.zeros(SHAPE), torch.ones(SHAPE)])
        model = SplitClassifier(nn.Sequential(Poisoned(value)), Always()).eval()
        for noise in (Lattice(), Float32()):
            found = SmoothedClassifier(model, Split(Gaussian(0.5, noise=noise))).predict(x, seed=0)
            assert found.tolist() == [-1, 1]

    def test_the_step_of_features_follows_from_sigma_alone_and_one_for_images_is_refused(self) -> None:
        split = Split(Gaussian(0.25))
        assert split.drawing.noise == Lattice(2.0**-8)
        assert Split(Gaussian(0.25, noise=Lattice(2.0**-5))).drawing.noise == Lattice(2.0**-5)
        assert Split(Gaussian(0.25, noise=Float32())).drawing.noise == Float32()
        with pytest.raises(ValueError, match="a power of two"):
            Split(Gaussian(0.25, noise=Lattice(1 / 255)))

    def test_features_are_seen_on_their_lattice(self) -> None:
        seen = []

        class Looking(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                seen.append(x.clone())
                return HalfSpace()(x)

        model = behind_a_half()
        model.right = Looking()
        certify(model.eval(), images(2), Split(Gaussian(0.25, n=300), bisections=0), seed=0)
        drawn = [x for x in seen if torch.equal(x * 2**8, (x * 2**8).round())]
        assert sum(map(len, drawn)) >= 2 * (100 + 300), "all but what checks look at"


@pytest.mark.parametrize("certifier", [Gaussian(0.5, n=300), Gaussian(0.5, n=300, noise=Float32())])
def test_votes_do_not_depend_on_which_process_draws_them(certifier: SamplingCertifier) -> None:
    code = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
import json; from cases import *; from holdfast import certify; from holdfast.core.certifier import Certifier
found = certify(HalfSpace(), images(6)[[4, 1]], Certifier.from_dict({certifier.to_dict()!r}), seed=7, indices=[4, 1])
print(json.dumps([c.evidence["votes"] for c in found]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    here = certify(HalfSpace(), images(6), certifier, seed=7, batch_size=5)
    assert json.loads(done.stdout) == [here[4].evidence["votes"], here[1].evidence["votes"]]


class ByPlace(nn.Module):
    """Rows that stand at odd places get the other class where the images are near to a tie."""

    def forward(self, x: Tensor) -> Tensor:
        place = torch.arange(len(x)) % 2
        score = HalfSpace().score(x) + 0.02 * (2 * place - 1)
        return torch.stack([score, -score], 1)


class TestDeterminism:
    def test_classes_that_change_with_the_place_in_a_batch_are_counted(self) -> None:
        seeds = [Seed(0, index) for index in range(8)]
        steady = determinism(HalfSpace(), images(8), Gaussian(0.5), seeds, 64)
        assert steady == {"noisy_rows": 64, "changed_classes": 0}
        unsteady = determinism(ByPlace(), grey(8), Gaussian(0.5), seeds, 256)
        assert 1 <= unsteady["changed_classes"] < 64
        assert determinism(HalfSpace(), images(8), CERTIFIERS["margin"].certifier, seeds, 64) == {}

    def test_it_is_measured_where_a_run_starts_kept_and_reported(self, tmp_path: Path) -> None:
        task, folder = Certification(Gaussian(0.5, n=300), "m", "toy"), tmp_path / "certify-1"
        open_certification(task, folder, DATA, "toy")
        certify_share(task, HalfSpace(), DATA, folder, identity="m", visible=False, shard=(0, 2))
        certify_share(task, HalfSpace(), DATA, folder, identity="m", visible=False, shard=(1, 2))
        assert [entry.get("changed_classes") for entry in entries(folder)] == [0, None, 0, None]
        assert CertifiedRun.open(folder).determinism == {"noisy_rows": 128, "changed_classes": 0}
        with (folder / "log.jsonl").open("a") as file:
            file.write('{"event": "cut o')
        assert "A: of 128 noisy images in another order and batch size, 0 changed their class" in "\n".join(
            summarise([folder]).notes
        )

    def test_a_model_for_batches_of_one_size_is_only_reordered(self) -> None:
        class Fixed(HalfSpace):
            def forward(self, x: Tensor) -> Tensor:
                return super().forward(x.view(64, *SHAPE))

        found = determinism(Fixed(), images(8), Gaussian(0.5), [Seed(0, index) for index in range(8)], 64)
        assert found == {"noisy_rows": 64, "changed_classes": 0}
