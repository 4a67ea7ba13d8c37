"""Classifiers in the files of other tools: what they compute, what they are, and what is said of those that are bad."""

import copy
import json
import pickle
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import Constant, HalfSpace, images
from formats import linear_onnx, one_line
from PIL import Image
from torch import Tensor, nn

from holdfast import Gaussian, as_classifier, as_images, certify
from holdfast.certification.identity import model_hash
from holdfast.cli import main
from holdfast.core.recipe import DataInfo
from holdfast.formats.hub import Preprocess
from holdfast.nn import zoo
from holdfast.opening import Source
from holdfast.program import capture, storage

GAUSSIAN = Gaussian(0.5, n0=20, n=300)


def same_votes(model: nn.Module, other: nn.Module, x: Tensor, unlike: int = 2) -> bool:
    """The same noise gets the same votes, up to so many of 300 for each image: kernels may round differently."""
    one, two = (certify(network, x, GAUSSIAN, seed=0) for network in (model, other))
    for proof, twin in zip(one, two, strict=True):
        votes = [Counter(certificate.evidence["votes"]) for certificate in (proof, twin)]
        if ((votes[0] - votes[1]) + (votes[1] - votes[0])).total() > 2 * unlike:
            return False
    return True


class TestOnnx:
    @pytest.mark.parametrize(
        "form",
        [
            {}, {"shape": (7, 3, 4, 4)}, {"shape": (None, None, None, None)}, {"shape": ("n", 4, 4, 3)},
            {"name": "x:0"}, {"softmax": True}, {"kind": "float64"}, {"external": True},
        ],
        ids=["dynamic", "static", "unknown", "channels-last", "named", "probabilities", "float64", "external"],
    )  # fmt: skip
    def test_a_file_gets_the_votes_of_the_network(self, tmp_path: Path, form: dict) -> None:
        twin = linear_onnx(tmp_path / "m.onnx", **form)
        model = as_classifier(tmp_path / "m.onnx")
        if form.get("shape") == ("n", 4, 4, 3):
            twin = nn.Sequential(Permute(), twin).eval()
        assert same_votes(model, twin, images(3))

    def test_a_file_of_float16_computes_in_float16(self, tmp_path: Path) -> None:
        twin = linear_onnx(tmp_path / "m.onnx", kind="float16").half()
        found = as_classifier(tmp_path / "m.onnx")(images(8))
        assert found.dtype == torch.float32
        assert torch.allclose(found, twin(images(8).half()).float(), atol=0.02)
        assert certify(as_classifier(tmp_path / "m.onnx"), images(1), GAUSSIAN)
        with pytest.raises(ValueError, match="leave the precision at 32-true"):
            as_classifier(tmp_path / "m.onnx")(images(1).double())

    def test_the_bytes_of_all_its_files_are_its_identity(self, tmp_path: Path) -> None:
        linear_onnx(tmp_path / "m.onnx", external=True)
        before = model_hash(as_classifier(tmp_path / "m.onnx"))
        (tmp_path / "elsewhere").mkdir()
        for file in ("m.onnx", "m.bin"):
            (tmp_path / "elsewhere" / file).write_bytes((tmp_path / file).read_bytes())
        assert model_hash(as_classifier(tmp_path / "elsewhere" / "m.onnx")) == before
        changed = bytearray((tmp_path / "m.bin").read_bytes())
        changed[0] ^= 1
        (tmp_path / "m.bin").write_bytes(changed)
        assert model_hash(as_classifier(tmp_path / "m.onnx")) != before
        linear_onnx(tmp_path / "a.onnx")
        linear_onnx(tmp_path / "b.onnx", seed=1)
        one, other = (model_hash(as_classifier(tmp_path / name)) for name in ("a.onnx", "b.onnx"))
        assert one != other

    def test_another_process_and_a_copy_run_the_same_file(self, tmp_path: Path) -> None:
        linear_onnx(tmp_path / "m.onnx")
        model = as_classifier(tmp_path / "m.onnx")
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(twin(images(3)), model(images(3)))
            assert model_hash(twin) == model_hash(model)

    def test_a_model_at_hand_is_taken_too(self, tmp_path: Path) -> None:
        import onnx

        twin = linear_onnx(tmp_path / "m.onnx")
        assert torch.allclose(as_classifier(onnx.load(tmp_path / "m.onnx"))(images(2)), twin(images(2)), atol=1e-5)

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            (lambda path: path.write_bytes(path.read_bytes()[:100]), "cannot be read as an ONNX file"),
            (lambda path: path.write_bytes(b""), "cannot be run by onnxruntime"),
            (lambda path: linear_onnx(path, op="Nonsense"), "Nonsense"),
            (lambda path: path.unlink(), "there is no file"),
            (lambda path: (linear_onnx(path, external=True), path.with_suffix(".bin").unlink()), "which is not there"),
            (lambda path: linear_onnx(path, shape=("n", 1, 28, 28)), "cannot be run|takes images of shape"),
            (lambda path: path.write_bytes(path.read_bytes().replace(b"m.bin", b"../mb")), None),
        ],
    )
    def test_a_bad_file_gets_one_line_and_writes_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, wrong, message: str | None
    ) -> None:
        monkeypatch.chdir(tmp_path)
        linear_onnx(Path("m.onnx"))
        wrong(Path("m.onnx"))
        if message is None:
            linear_onnx(Path("m.onnx"), external=True)
            content = Path("m.onnx").read_bytes()
            assert b"m.bin" in content
            Path("m.onnx").write_bytes(content.replace(b"m.bin", b"../mb"))
            message = "not in its own folder"
        one_line(["certify", "--model", "m.onnx", "--dataset", "digits", "--device", "cpu"], message, capsys)
        assert not Path("runs").exists()

    def test_inspect_says_why_its_operations_are_not_shown(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        linear_onnx(Path("m.onnx"))
        message = "onnxruntime computes m.onnx, so that its operations cannot be followed"
        one_line(["inspect", "--model", "m.onnx", "--shape", "3", "4", "4"], message, capsys)

    def test_two_inputs_and_integers_are_refused(self, tmp_path: Path) -> None:
        from onnx import TensorProto, helper, save

        for kind, count, message in ((TensorProto.FLOAT, 2, "has 2 inputs"), (TensorProto.UINT8, 1, "tensor.uint8")):
            inputs = [helper.make_tensor_value_info(f"i{i}", kind, ["n", 3]) for i in range(count)]
            nodes = [helper.make_node("Identity" if count == 1 else "Add", [f"i{i}" for i in range(count)], ["y"])]
            outputs = [helper.make_tensor_value_info("y", kind, ["n", 3])]
            graph = helper.make_graph(nodes, "g", inputs, outputs)
            save(
                helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx"
            )
            with pytest.raises(ValueError, match=message):
                as_classifier(tmp_path / "m.onnx")


class Permute(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1)


class TestExportedPrograms:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Hardswish(), nn.Flatten(), nn.Linear(16, 3)).eval()
        for name, batch in (("m", ({0: torch.export.Dim.DYNAMIC},)), ("five", None)):
            exported = torch.export.export(model, (images(5),), dynamic_shapes=batch, strict=False)
            torch.export.save(exported, tmp_path / f"{name}.pt2")
        return tmp_path / "m.pt2"

    def test_it_gets_the_same_votes_for_any_batch_and_for_one_size(self, file: Path) -> None:
        free, five = (as_classifier(file.with_name(name), allow_pickle=True) for name in ("m.pt2", "five.pt2"))
        assert five(images(12)).shape == (12, 3)
        assert torch.allclose(free(images(12)), five(images(12)), atol=1e-6)
        assert same_votes(free, five, images(3))

    def test_it_is_read_only_where_pickles_are_allowed(self, file: Path) -> None:
        with pytest.raises(ValueError, match="add --allow-pickle"):
            as_classifier(file)
        file.write_bytes(file.read_bytes()[:200])
        with pytest.raises(ValueError, match=r"cannot be read as what torch\.export\.save writes"):
            as_classifier(file, allow_pickle=True)

    def test_two_programs_of_the_same_weights_are_two_models(self) -> None:
        def exported(activation: nn.Module) -> nn.Module:
            network = nn.Sequential(activation, nn.Flatten(), nn.Linear(48, 2, bias=False)).eval()
            nn.init.ones_(network[2].weight)  # pyright: ignore[reportArgumentType]
            return as_classifier(torch.export.export(network, (images(2),), strict=False))

        assert model_hash(exported(nn.ReLU())) == model_hash(exported(nn.ReLU()))
        assert model_hash(exported(nn.ReLU())) != model_hash(exported(nn.Tanh()))

    def test_a_stored_program_is_a_classifier_with_the_identity_of_its_program(self, tmp_path: Path) -> None:
        programs = [capture(nn.Sequential(act, nn.Flatten(), nn.Linear(48, 2)).eval(), (3, 4, 4)) for act in ACTS]
        for program, name in zip(programs, ("relu", "tanh"), strict=True):
            storage.save(program, tmp_path / name)
        model = as_classifier(tmp_path / "relu")
        assert torch.equal(model(images(3)), programs[0](images(3)))
        assert model_hash(as_classifier(tmp_path / "relu" / "graph.json")) == model_hash(model)
        assert model_hash(as_classifier(tmp_path / "tanh")) != model_hash(model)
        assert same_votes(as_classifier(programs[0]), model, images(2))


ACTS = (nn.ReLU(), nn.Tanh())


@pytest.mark.parametrize(("module", "extra"), [("onnxruntime", "onnx"), ("onnx", "onnx"), ("transformers", "hf")])
def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, extra: str) -> None:
    linear_onnx(tmp_path / "m.onnx")
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=rf"{module} is needed here .*holdfast\[{extra}\]"):
        as_classifier(tmp_path / "m.onnx" if extra == "onnx" else f"hf:{tmp_path}")


class TestStateDicts:
    def test_fit_an_architecture_by_name_without_the_prefix_of_ddp(self, tmp_path: Path) -> None:
        info = DataInfo("digits", (1, 8, 8), 10, (0.5,), (0.5,))
        network = zoo.build("cnn", info).eval()
        torch.save({f"module.{key}": value for key, value in network.state_dict().items()}, tmp_path / "w.pt")
        x = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        assert torch.equal(as_classifier("cnn", tmp_path / "w.pt", data=info)(x), network(x))
        with pytest.raises(ValueError, match="needs to know its images"):
            as_classifier("cnn", tmp_path / "w.pt")
        with pytest.raises(ValueError, match="with random weights"):
            as_classifier("cnn", data=info)

    def test_from_the_command_line(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
        monkeypatch.chdir(tmp_path)
        info = DataInfo("digits", (1, 8, 8), 10, (0.5,), (0.5,))
        torch.save(zoo.build("cnn", info).state_dict(), "w.pt")
        torch.save({"a": torch.ones(2)}, "misfit.pt")
        asked = ["--dataset", "digits", "--limit", "2", "--n", "100", "--device", "cpu"]
        one_line(["certify", "--model", "cnn", "--weights", "misfit.pt", *asked], "do not fit the model", capsys)
        one_line(["certify", "--model", "w.pt", *asked], "without the network that they are of", capsys)
        one_line(["certify", "--model", "w.onnx", "--weights", "w.pt", *asked], "has its own weights", capsys)
        assert not Path("runs").exists()
        main(["certify", "--model", "cnn", "--weights", "w.pt", *asked])
        (run,) = Path("runs").glob("cnn-*/certify-*")
        assert json.loads((run / "run.json").read_text())["model"] == {"classifier": {"from": "cnn"}}


class TestImages:
    X = (images(4) * 255).round() / 255

    @pytest.mark.parametrize(
        "form",
        [
            lambda x: x.numpy(),
            lambda x: x.double().numpy(),
            lambda x: (255 * x).round().byte(),
            lambda x: (255 * x).round().byte().numpy(),
            lambda x: (255 * x).round().byte().permute(0, 2, 3, 1).numpy(),
            lambda x: [Image.fromarray(one) for one in (255 * x).round().byte().permute(0, 2, 3, 1).numpy()],
        ],
        ids=["float32", "float64", "tensor-of-bytes", "bytes", "channels-last", "pictures"],
    )
    def test_certificates_are_those_of_the_tensor(self, form) -> None:
        given = form(self.X)
        assert certify(HalfSpace(), given, GAUSSIAN, seed=0) == certify(HalfSpace(), self.X, GAUSSIAN, seed=0)

    def test_an_array_of_the_user_is_not_shared(self) -> None:
        array = self.X.numpy().copy()
        as_images(array).zero_()
        assert (array == self.X.numpy()).all()

    def test_grey_pictures_have_one_channel_and_one_is_a_batch(self) -> None:
        assert as_images(Image.new("L", (5, 7), 255)).shape == (1, 1, 7, 5)
        assert as_images(Image.new("L", (5, 7), 255)).max() == 1

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            (255 * np.random.default_rng(0).random((2, 3, 4, 4)), r"expected images in \[0, 1\], got"),
            (np.zeros((2, 3, 4, 4), np.int64), "or bytes, got int64; divide by"),
            (torch.zeros(2, 3, 4, 4, dtype=torch.int32), "or bytes, got torch.int32"),
            (np.zeros((3, 4, 4), np.float32), "floating-point images .batch, channel, height, width."),
            ([Image.new("L", (4, 4)), Image.new("L", (5, 4))], "expected images of one size"),
            ([Image.new("I;16", (4, 4))], "8 bits, grey or color, got the mode I;16"),
            ([Image.new("RGBA", (4, 4))], "transparent"),
            ([], "expected a torch.Tensor, an array or PIL images, got list"),
            ("photo.png", "got str"),
            (np.zeros((0, 3, 4, 4), np.float32), "empty batch"),
        ],
    )
    def test_what_is_no_batch_of_images_gets_one_line(self, given, message: str) -> None:
        with pytest.raises(ValueError, match=message) as caught:
            certify(Constant(), given, GAUSSIAN)
        assert "\n" not in str(caught.value)


def test_a_name_that_stands_for_nothing_lists_the_forms() -> None:
    with pytest.raises(ValueError, match=r"there is no classifier nonsense; expected a run folder, .*hf:org/name"):
        as_classifier("nonsense")
    assert Source("m.onnx").folder(Path("runs"), "f00") == Path("runs/m.onnx-f00")
    assert Source("hf:org/name").folder(Path("runs"), "f00") == Path("runs/hf-org-name-f00")


def test_only_what_is_asked_for_is_imported() -> None:
    import subprocess

    foreign = "{'timm', 'torchvision', 'transformers', 'onnx', 'onnxruntime', 'onnxscript', 'diffusers', 'foolbox'}"
    code = f"import sys, holdfast.opening, holdfast.formats.export; sys.exit(bool({foreign} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_preprocessing_keeps_proportions_and_refuses_a_center_that_is_too_large() -> None:
    assert Preprocess(resize=8)(torch.rand(1, 3, 10, 20)).shape == (1, 3, 8, 16)
    assert Preprocess(resize=8)(torch.rand(1, 3, 20, 10)).shape == (1, 3, 16, 8)
    with pytest.raises(ValueError, match="cannot be cut out of 8x8"):
        Preprocess(crop=(9, 9))(torch.rand(1, 3, 8, 8))
