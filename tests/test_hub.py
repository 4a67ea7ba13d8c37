"""Models of Hugging Face and of timm: what they do to an image first is inside, and what is missing is named."""

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from formats import CLASSES, SHAPE, SIDE, one_line, processor, transformer
from PIL import Image
from torch import nn

from holdfast import Normalize, as_classifier
from holdfast.certification.identity import model_hash
from holdfast.formats.extras import need
from holdfast.formats.files import read_weights
from holdfast.program import capture


class TestHuggingFace:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        transformer("vit").save_pretrained(tmp_path / "vit")
        processor(tmp_path / "vit")
        return tmp_path / "vit"

    def test_its_normalization_is_inside_and_it_returns_logits(self, folder: Path) -> None:
        network = transformer("vit")
        by_hand = nn.Sequential(Normalize((0.5, 0.4, 0.3), (0.5, 0.25, 0.2)), as_classifier(network)).eval()
        x = torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(0))
        assert torch.allclose(as_classifier(f"hf:{folder}")(x), by_hand(x), atol=1e-5)
        assert torch.equal(as_classifier(network)(x), network(x).logits)

    def test_its_settings_are_part_of_its_identity(self, folder: Path) -> None:
        before = model_hash(as_classifier(f"hf:{folder}"))
        assert model_hash(as_classifier(f"hf:{folder}")) == before
        processor(folder, image_mean=[0.5, 0.4, 0.31])
        assert model_hash(as_classifier(f"hf:{folder}")) != before
        processor(folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"hidden_act": "relu"}))
        assert model_hash(as_classifier(f"hf:{folder}")) != before

    @pytest.mark.parametrize(
        ("settings", "shape"),
        [
            ({"do_resize": True}, SHAPE),
            ({"do_resize": True, "resample": 3}, SHAPE),
            (
                {"image_processor_type": "BitImageProcessor", "do_resize": True, "size": {"shortest_edge": 20},
                 "do_center_crop": True, "crop_size": {"height": SIDE, "width": SIDE}, "resample": 3},
                SHAPE,
            ),
            (
                {"image_processor_type": "ConvNextImageProcessor", "do_resize": True, "size": {"shortest_edge": SIDE},
                 "crop_pct": 0.8},
                SHAPE,
            ),
            (
                {"image_processor_type": "MobileViTImageProcessor", "do_resize": True, "size": {"shortest_edge": 20},
                 "do_center_crop": True, "crop_size": {"height": SIDE, "width": SIDE}, "do_flip_channel_order": True,
                 "do_normalize": False},
                SHAPE,
            ),
        ],
        ids=["resize", "bicubic", "cut", "convnext", "bgr"],
    )  # fmt: skip
    def test_it_prepares_an_image_as_its_processor_does(self, folder: Path, settings: dict, shape: tuple) -> None:
        from transformers import AutoImageProcessor

        processor(folder, **settings)
        prepare = as_classifier(f"hf:{folder}").preprocess
        coarse = torch.rand(1, 3, 5, 5, generator=torch.Generator().manual_seed(3))
        smooth = nn.functional.interpolate(coarse * 0.4 + 0.3, (40, 31), mode="bicubic")
        bytes_ = (255 * smooth[0]).round().to(torch.uint8)
        expected = AutoImageProcessor.from_pretrained(folder)(images=Image.fromarray(bytes_.permute(1, 2, 0).numpy()))
        found = prepare(bytes_[None].float() / 255)[0]  # pyright: ignore[reportCallIssue]
        assert found.shape == shape
        level = 1 / 255 / (0.2 if settings.get("do_normalize", True) else 1)
        assert np.abs(found.numpy() - np.asarray(expected["pixel_values"][0])).max() < 2 * level

    @pytest.mark.parametrize(("side", "resample"), [(10, 2), (20, 2), (10, 3), (20, 3)])
    def test_its_program_holds_what_happens_to_an_image_first(self, folder: Path, side: int, resample: int) -> None:
        processor(folder, do_resize=True, resample=resample)
        model = as_classifier(f"hf:{folder}")
        x = torch.rand(3, 3, side, side, generator=torch.Generator().manual_seed(0))
        assert torch.allclose(capture(model, (3, side, side))(x), model(x), atol=1e-5)

    def test_grey_images_become_color(self, folder: Path) -> None:
        grey = torch.rand(2, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
        model = as_classifier(f"hf:{folder}")
        assert torch.equal(model(grey), model(grey.expand(-1, 3, -1, -1)))

    @pytest.mark.parametrize(
        ("settings", "scale", "shift"),
        [({"do_normalize": False}, 1, 0), ({"image_mean": [0.5], "image_std": [0.25]}, 4, -2)],
        ids=["plain", "normalized"],
    )
    def test_a_network_of_grey_images_gets_them_grey(
        self, settings: dict, scale: float, shift: float, tmp_path: Path
    ) -> None:
        network = transformer("vit", num_channels=1)
        network.save_pretrained(tmp_path)
        processor(tmp_path, **settings)
        grey = torch.rand(2, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
        expected = network(grey * scale + shift).logits
        assert torch.allclose(as_classifier(f"hf:{tmp_path}")(grey), expected, atol=1e-5)

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            (lambda f: (f / "preprocessor_config.json").unlink(), "has no image processor"),
            (lambda f: (f / "config.json").unlink(), "holds neither config.json"),
            (lambda f: (f / "config.json").write_text("{}"), "no image classifier that transformers can read"),
            (lambda f: (f / "model.safetensors").unlink(), "no image classifier that transformers can read"),
            (lambda f: (f / "model.safetensors").write_bytes(b"xx"), "no image classifier that transformers can read"),
            (lambda f: headless(f), "lacks weights of the classifier .classifier.bias, classifier.weight."),
            (lambda f: processor(f, resample=1, do_resize=True), "resampling 1 is not known"),
            (lambda f: processor(f, image_processor_type="Nonsense"), "image processor that cannot be used"),
            (
                lambda f: processor(f, image_processor_type="EfficientNetImageProcessor", include_top=True),
                "does more than resize",
            ),
        ],
    )  # fmt: skip
    def test_a_bad_folder_gets_one_line_and_writes_nothing(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys, wrong, message: str
    ) -> None:
        monkeypatch.chdir(folder.parent)
        wrong(folder)
        one_line(["certify", "--model", "hf:./vit", "--dataset", "digits", "--device", "cpu"], message, capsys)
        assert not Path("runs").exists()

    def test_classes_that_are_not_those_of_the_data_are_refused(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys
    ) -> None:
        monkeypatch.chdir(folder.parent)
        processor(folder, do_resize=True)
        message = f"the model tells {CLASSES} classes apart, and the data set digits has 10"
        one_line(["certify", "--model", "hf:./vit", "--dataset", "digits", "--device", "cpu"], message, capsys)
        assert not Path("runs").exists()

    def test_a_name_that_is_not_there_gets_one_line(self, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        import huggingface_hub.constants

        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        one_line(["certify", "--model", "hf:nobody/nothing", "--dataset", "digits"], "cannot be had", capsys)
        one_line(["certify", "--model", "hf:./nothing", "--dataset", "digits"], "there is no such folder", capsys)


def headless(folder: Path) -> None:
    """Leave the weights of the body alone, as of a model that was not trained to classify."""
    from safetensors.torch import save_file

    state = read_weights(folder / "model.safetensors")
    kept = {name: value for name, value in state.items() if not name.startswith("classifier")}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


class TestTimm:
    def test_a_model_gets_the_size_and_normalization_of_its_settings(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """With a stand-in, for timm does not import beside every torch."""
        asked = []
        settings = {"input_size": (3, 8, 8), "interpolation": "bicubic", "crop_pct": 0.8, "crop_mode": "center"}
        settings |= {"mean": (0.5, 0.4, 0.3), "std": (0.5, 0.25, 0.2)}
        network = nn.Sequential(nn.Flatten(), nn.Linear(192, 2)).eval()
        timm = ModuleType("timm")
        vars(timm)["create_model"] = lambda name, pretrained: asked.append((name, pretrained)) or network
        vars(timm)["data"] = SimpleNamespace(resolve_model_data_config=lambda model: settings)
        monkeypatch.setitem(sys.modules, "timm", timm)
        x = torch.rand(2, 3, 10, 10, generator=torch.Generator().manual_seed(0))
        cut = Normalize((0.5, 0.4, 0.3), (0.5, 0.25, 0.2))(x[:, :, 1:9, 1:9])
        assert torch.allclose(as_classifier("timm:small.in1k")(x), network(cut), atol=1e-5)
        assert asked == [("small.in1k", True)]
        settings["crop_mode"] = "border"
        with pytest.raises(ValueError, match=r"timm:small cannot be made: .* border to 8x8"):
            as_classifier("timm:small")

    def test_a_real_model_answers_as_by_hand(self, tmp_path: Path) -> None:
        try:
            timm = need("timm", "timm")
        except ValueError as error:
            pytest.skip(str(error))
        network = timm.create_model("resnet10t", num_classes=7).eval()  # trained further, for other classes
        torch.save(network.state_dict(), tmp_path / "w.pt")
        config = timm.data.resolve_model_data_config(network)
        x = torch.rand(2, *config["input_size"], generator=torch.Generator().manual_seed(0))
        found = as_classifier("timm:resnet10t", tmp_path / "w.pt")
        found[0].resize = config["input_size"][1:]  # pyright: ignore[reportIndexIssue]
        assert torch.allclose(found(x), network(Normalize(config["mean"], config["std"])(x)), atol=1e-4)

    def test_where_timm_is_missing_the_extra_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "timm", None)
        with pytest.raises(ValueError, match=r"timm is needed here .* pip install 'holdfast\[timm\]'"):
            as_classifier("timm:resnet18")
