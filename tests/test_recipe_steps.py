"""The trial of every recipe: which batch it takes, what is shared, and what its table says."""

import re
from pathlib import Path

import pytest
import recipe_steps
import torch
from recipe_steps import info

from holdfast.core.registry import RECIPES
from holdfast.nn import zoo


@pytest.mark.slow
@pytest.mark.parametrize("name", list(RECIPES))
def test_every_recipe_takes_two_steps_and_certifies_an_image(
    name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """On its own architecture and shape; of images at random, in batches as `recipe_steps.affordable` finds them."""
    folder = tmp_path_factory.getbasetemp() / "recipes"
    folder.mkdir(exist_ok=True)
    found = recipe_steps.run(name, folder)
    assert "radius" in found or "as" in found, found.get("error")


def test_a_batch_is_the_published_one_where_memory_and_time_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = RECIPES["gaussian-digits-0.25"]
    network = zoo.build(recipe.arch, info("digits"))
    assert recipe_steps.affordable(recipe, network, (1e6, 1e-9)) == [(64, ""), (2, "time")]
    monkeypatch.setattr(recipe_steps, "MEMORY", 1.0)
    assert recipe_steps.affordable(recipe, network, (1e6,)) == [(2, "memory")]


def test_one_of_each_recipes_that_are_alike_runs_first() -> None:
    order = recipe_steps.in_order()
    assert sorted(order) == sorted(RECIPES)
    assert order.index("smoothmix-imagenet-0.25") < order.index("smoothmix-mnist-0.50")
    assert order.index("smoothmix-mnist-0.25") < order.index("smoothmix-imagenet-0.25")


def test_what_backward_passes_keep_is_counted_once_and_given_back() -> None:
    """Of y = x * x the input, 4,000 bytes, twice in one storage; of exp its result."""
    kept, x = recipe_steps.Kept(), torch.ones(1000, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda held: held.value):
        y = (x * x).exp()
        assert (kept.now, kept.peak) == (8000, 8000)
        y.sum().backward()
    del y
    assert (kept.now, kept.peak) == (0, 8000)


def test_a_recipe_that_fails_says_so_and_stops_no_other(tmp_path: Path) -> None:
    """A process of its own takes the steps; what it found lies in a file."""
    assert recipe_steps.run("gaussian-digits-0.25", tmp_path)["batch"] == 64
    assert recipe_steps.ended("gaussian-digits-0.25", tmp_path)
    found = recipe_steps.run("no such recipe", tmp_path)
    assert found["error"] == "the process ended with 1"
    (tmp_path / "killed.json").write_text('{"recipe": "killed", "batch": 2}')
    assert not recipe_steps.ended("killed", tmp_path)
    assert "1 of" in recipe_steps.table(tmp_path).splitlines()[-1]


def test_large_nets_of_one_shape_and_certifier_share_a_proof(tmp_path: Path) -> None:
    (tmp_path / "emma-cifar10.json").write_text('{"recipe": "emma-cifar10", "batch": 1, "published": 2, "radius": 0.1}')
    assert recipe_steps.proven(RECIPES["emma-annealed-cifar10"], tmp_path) == "emma-cifar10"
    assert recipe_steps.proven(RECIPES["emma-annealed-cifar100"], tmp_path) is None
    (tmp_path / "emma-annealed-cifar10.json").write_text(
        '{"recipe": "emma-annealed-cifar10", "batch": 1, "published": 2, "as": "emma-cifar10"}'
    )
    assert recipe_steps.ended("emma-annealed-cifar10", tmp_path)
    first, *others, last = recipe_steps.table(tmp_path).splitlines()[1:]
    assert first.endswith("as emma-cifar10")
    assert sum(line.endswith("not tried") for line in others) == len(RECIPES) - 2
    assert last.startswith("2 of")
    assert "0 at the published batch size, 1 with the proof of another" in last


def test_networks_of_little_cost_share_no_proof(tmp_path: Path) -> None:
    (tmp_path / "gaussian-mnist-0.25.json").write_text('{"recipe": "gaussian-mnist-0.25", "radius": 0.1}')
    assert recipe_steps.proven(RECIPES["consistency-mnist-0.25"], tmp_path) is None


def test_the_page_says_what_the_table_of_tried_recipes_says() -> None:
    root = Path(__file__).parents[1]
    *lines, last = (root / "results" / "benchmarks" / "recipes.txt").read_text().splitlines()
    tried, known, full, shared, minutes, peak = re.findall(r"[\d.]+", last)
    page = " ".join((root / "docs" / "fidelity.md").read_text().split())
    assert f"{tried} of {known} recipes have been tried, {full} of them at the published batch size" in page
    assert f"{shared} of them with the proof of another" in page
    assert f"in {minutes} minutes of one busy core and at most {peak} GiB" in page
    assert not [line for line in lines if "ERROR" in line]
    assert {line.split()[0] for line in lines[1:]} == set(RECIPES)
    assert sum(line.endswith("not tried") for line in lines) == int(known) - int(tried)
