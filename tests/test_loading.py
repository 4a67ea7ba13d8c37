"""Whatever a user has: weights in the forms they come in, and the identity of a model and of data."""

import importlib
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cases import Constant, images
from safetensors.torch import save_file
from torch import nn

from holdfast import Gaussian
from holdfast.certification.driver import certify_share
from holdfast.certification.identity import model_hash
from holdfast.certification.task import Certification, open_certification
from holdfast.core.recipe import DataInfo
from holdfast.data import Dataset
from holdfast.opening import Source
from holdfast.runs import records, store
from holdfast.training.network import Beginning

FACTORY = """
from torch import nn
import layers_of_mine

class Own(nn.Module):
    def __init__(self, slope=1.0):
        super().__init__()
        self.layer, self.slope = nn.Linear(48, 2), slope

    def forward(self, x):
        return self.slope * self.layer(layers_of_mine.flat(x))

def model():
    import torch
    torch.manual_seed(0)
    return Own()

def steep():
    import torch
    torch.manual_seed(0)
    return Own(2.0)

def broken():
    raise KeyError("no such file: graph.bin")

def verbose():
    raise RuntimeError("one line\\n  and another")
"""

LAYERS = "def flat(x):\n    return x.flatten(1)\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a factory in two files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "factory_of_mine.py").write_text(FACTORY)
    (tmp_path / "layers_of_mine.py").write_text(LAYERS)
    (tmp_path / "graph.bin").write_bytes(b"one")
    return tmp_path


def own(function: str = "model", weights: Path | None = None, **settings) -> nn.Module:
    for name in ("factory_of_mine", "layers_of_mine"):  # read again, as another process would
        sys.modules.pop(name, None)
    importlib.invalidate_caches()
    return Source(f"factory_of_mine:{function}", weights, **settings).load()


def identity(function: str = "model") -> str:
    return Source(f"factory_of_mine:{function}").identity(own(function))


class TestTheIdentityOfAModel:
    @pytest.mark.usefixtures("here")
    def test_is_the_same_for_the_same_model(self) -> None:
        assert identity() == identity()

    @pytest.mark.parametrize(
        ("file", "old", "new"),
        [
            ("factory_of_mine.py", "self.slope * ", "-self.slope * "),
            ("layers_of_mine.py", "x.flatten(1)", "x.flatten(1) * 2"),
            ("graph.bin", "one", "two"),
        ],
    )
    def test_changes_with_code_and_with_files_that_the_code_names(
        self, here: Path, file: str, old: str, new: str
    ) -> None:
        (here / "factory_of_mine.py").write_text(FACTORY.replace("no such file: ", ""))
        before = identity()
        (here / file).write_text((here / file).read_text().replace(old, new))
        assert identity() != before

    @pytest.mark.usefixtures("here")
    def test_changes_with_a_setting_that_is_no_tensor(self) -> None:
        assert identity("model") != identity("steep")

    @pytest.mark.parametrize(
        "different",
        [
            lambda: (nn.LeakyReLU(0.1), nn.LeakyReLU(0.2)),
            lambda: (nn.ReLU(), nn.Tanh()),
            lambda: (Constant((0.0, 1.0)), Constant((1.0, 0.0))),
            lambda: (nn.Sequential(nn.ReLU(), nn.Identity()), nn.Sequential(nn.Identity(), nn.ReLU())),
        ],
    )
    def test_tells_models_without_weights_apart(self, different: Callable[[], tuple[nn.Module, nn.Module]]) -> None:
        one, other = different()
        assert model_hash(one) != model_hash(other)

    def test_is_no_address_in_memory(self) -> None:
        class Shown(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.activation = lambda x: x

            def extra_repr(self) -> str:
                return f"{self.activation}"

        assert model_hash(Shown()) == model_hash(Shown())


class TestWeights:
    @pytest.mark.parametrize(
        "wrap",
        [
            lambda state: state,
            lambda state: {"state_dict": state, "epoch": 3},
            lambda state: {"model": state},
            lambda state: {f"module.{key}": value for key, value in state.items()},
            lambda state: {"state_dict": {f"_orig_mod.module.{key}": value for key, value in state.items()}},
        ],
    )
    def test_are_found_in_a_checkpoint_without_trust_in_a_pickle(self, here: Path, wrap: Callable) -> None:
        state = {"layer.weight": torch.ones(2, 48), "layer.bias": torch.zeros(2)}
        torch.save(wrap(state), here / "w.pt")
        assert torch.equal(own(weights=here / "w.pt").state_dict()["layer.weight"], torch.ones(2, 48))

    def test_of_a_pickled_module_need_trust(self, here: Path) -> None:
        torch.save(nn.ModuleDict({"layer": nn.Linear(48, 2)}), here / "w.pt")
        with pytest.raises(ValueError, match="add --allow-pickle, or save its state_dict alone"):
            own(weights=here / "w.pt")
        assert own(weights=here / "w.pt", allow_pickle=True)
        with pytest.raises(ValueError, match="if you trust it, save its state_dict alone"):  # no option of train
            Beginning.read(here / "w.pt")

    def test_that_do_not_fit_are_named_in_short(self, here: Path) -> None:
        state = {f"extra.{i}": torch.ones(1) for i in range(9)} | {"layer.weight": torch.ones(2, 5)}
        save_file(state, here / "w.safetensors")
        with pytest.raises(ValueError, match="do not fit") as caught:
            own(weights=here / "w.safetensors")
        message = str(caught.value)
        assert "the file lacks layer.bias" in message
        assert "the model lacks extra.0, extra.1, extra.2 and 6 more" in message
        assert "layer.weight (2, 5) instead of (2, 48)" in message
        assert "\n" not in message

    @pytest.mark.parametrize("content", [{"epoch": 3}, [1, 2], {"state_dict": {"lr": 0.1}}])
    def test_that_are_none_are_refused(self, here: Path, content: object) -> None:
        torch.save(content, here / "w.pt")
        with pytest.raises(ValueError, match="expected a state_dict in"):
            own(weights=here / "w.pt")

    def test_in_a_torn_file_are_refused(self, here: Path) -> None:
        torch.save({"layer.weight": torch.ones(2, 48)}, here / "whole.pt")
        (here / "w.pt").write_bytes((here / "whole.pt").read_bytes()[:200])
        with pytest.raises(ValueError, match=r"cannot be read as what torch\.save writes"):
            own(weights=here / "w.pt")


@pytest.mark.usefixtures("here")
def test_a_factory_that_raises_gets_one_line() -> None:
    with pytest.raises(ValueError, match=r"^factory_of_mine:broken raised KeyError: 'no such file: graph.bin'$"):
        own("broken")
    with pytest.raises(ValueError, match="cannot import factory_of_mine:absent"):
        own("absent")
    with pytest.raises(ValueError, match=r"^factory_of_mine:verbose raised RuntimeError: one line and another$"):
        own("verbose")


DATA = Dataset(
    DataInfo("toy", (3, 4, 4), 2, (0.5,) * 3, (0.5,) * 3), "test", (images(6) * 255).byte(), torch.arange(6) % 2
)
TASK = Certification(Gaussian(0.5, n=100), model="m", dataset="toy", every=2)


def inverted(data: Dataset, rows: list[int]) -> Dataset:
    changed = data.images.clone()
    changed[rows] = 255 - changed[rows]
    return replace(data, images=changed)


class TestTheIdentityOfData:
    def test_a_run_goes_on_with_the_same_images_alone(self, tmp_path: Path) -> None:
        folder = tmp_path / "run"
        open_certification(TASK, folder, DATA, "toy")
        certify_share(TASK, Constant(), DATA, folder, identity=TASK.model, visible=False)
        open_certification(TASK, folder, inverted(DATA, [1, 3, 5]), "toy")  # images that the run does not name
        with pytest.raises(ValueError, match="the images of the data set changed since"):
            open_certification(TASK, folder, inverted(DATA, [2]), "toy")
        with pytest.raises(ValueError, match="the labels of the data set changed since"):
            open_certification(TASK, folder, replace(DATA, labels=1 - DATA.labels), "toy")
        with pytest.raises(ValueError, match="the images and the labels"):
            open_certification(TASK, folder, DATA.where(torch.tensor([1, 1, 1, 1, 0, 0]).bool()), "toy")

    def test_a_folder_that_keeps_no_checksums_is_read_and_not_continued(self, tmp_path: Path) -> None:
        folder = tmp_path / "run"
        store.open_run(folder, {"certification": TASK.to_dict()}, {"name": "toy", "total": 3})
        with pytest.raises(ValueError, match="made before runs kept checksums"):
            open_certification(TASK, folder, DATA, "toy")
        assert records.read_records(folder) == []
