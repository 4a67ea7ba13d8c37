"""Published rows meet the runs of our recipes by explicit ids, and nothing else meets them."""

from collections.abc import Mapping
from typing import Any

import pytest
from report_cases import record

from holdfast.core.certifier import Certifier
from holdfast.core.recipe import Recipe
from holdfast.core.registry import ARCHITECTURES, RECIPES
from holdfast.report.curve import Curve
from holdfast.report.published import Published, published
from holdfast.report.tables import beside, matching

ROWS = published()


def run_of(recipe: Recipe) -> Curve:
    """What a run of this recipe looks like to a report, certified the way that its method means."""
    certifier = recipe.method.certifier()
    norm = "linf" if type(certifier).__name__ == "LInfBox" or recipe.arch.startswith(("linf", "sortnet")) else "l2"
    return shown(recipe.to_dict(), norm, certifier)


def shown(recipe: Mapping[str, Any], norm: str, certifier: Certifier | None) -> Curve:
    settings = {} if certifier is None else certifier.to_dict()
    return Curve("run", [record(0, 0.3, norm=norm)], settings, recipe)


@pytest.fixture(scope="module")
def met() -> dict[int, list[str]]:
    """The recipes that meet each row, by its place."""
    runs = {name: matching(run_of(recipe), ROWS) for name, recipe in RECIPES.items()}
    places = {id(row): place for place, row in enumerate(ROWS)}
    found: dict[int, list[str]] = {place: [] for place in range(len(ROWS))}
    for name, rows in runs.items():
        for row in rows:
            found[places[id(row)]].append(name)
    return found


def test_every_row_meets_a_recipe_or_says_why_none_can(met: dict[int, list[str]]) -> None:
    for place, row in enumerate(ROWS):
        assert bool(met[place]) != bool(row.absent), (row, met[place])


def test_the_first_architecture_of_a_row_is_its_own_or_is_said_to_be_absent() -> None:
    for row in ROWS:
        known = [arch.split("@")[0] in ARCHITECTURES for arch in row.arch]
        assert all(known) or row.absent, row


def test_every_row_tells_whether_its_bound_was_proven() -> None:
    for row in ROWS:
        assert "proven" in row.how, row


def test_the_headlines_of_the_papers_are_there_under_their_own_architecture() -> None:
    """What the abstracts claim, and which network their authors' tables name for it."""
    headlines = {
        ("Splitz", "cifar10", "resnet110@conv1", 1.0): 43.2,
        ("Emma", "cifar10", "liresnet-2023-18x256", 36 / 255): 70.1,
        ("Emma", "cifar100", "liresnet-2023-18x256", 36 / 255): 41.5,
        ("Emma", "tiny-imagenet", "liresnet-2023-18x256-stride4", 36 / 255): 33.6,
        ("Emma", "imagenet", "liresnet-2023-12x588", 36 / 255): 35.0,
        ("Emma", "imagenet", "liresnet-2023-18x588", 1.0): 14.2,
        ("LInfPlus", "tiny-imagenet@56/64", "linf-dist-plus-5120x5", 1 / 255): 16.31,
        ("Gloro", "tiny-imagenet", "gloro-relu-8c2f", 36 / 255): 22.4,
        ("SortNetPlus", "tiny-imagenet", "sortnet-plus-2x-5120x5-0.70", 1 / 255): 17.70,
        ("SortNetPlus", "imagenet@64", "sortnet-plus-2x-5120x5-2048-0.70", 1 / 255): 9.42,
    }
    for (method, dataset, arch, radius), percent in headlines.items():
        alike = [row for row in ROWS if (row.method, row.dataset, row.arch[0]) == (method, dataset, arch)]
        assert percent in [row.accuracy.get(radius) for row in alike], (method, dataset, arch)
    assert {row.sigma: row.acr for row in ROWS if (row.method, row.dataset) == ("CATRS", "mnist")} == {
        0.25: 0.9331,
        0.5: 1.6999,
        1.0: 1.8306,
    }


def test_rows_of_imagenet_and_of_splitz_meet_their_recipes(met: dict[int, list[str]]) -> None:
    """The ten and one that could never appear."""
    recipes = {name for names in met.values() for name in names}
    assert {"gaussian-imagenet-0.50", "consistency-imagenet-1.00", "smoothadv-imagenet-0.50"} <= recipes
    assert "splitz-mnist-0.50" in recipes


@pytest.mark.parametrize("kind", ["GaussianMixture", "Gaussian", "gaussian", "GaussianNoise2", "EmmaLike", "Macer"])
def test_a_method_of_another_name_meets_no_row(kind: str) -> None:
    recipe = RECIPES["gaussian-mnist-0.50"]
    certifier = recipe.method.certifier()
    mine = {"method": {"kind": "GaussianNoise"}, "dataset": "mnist", "arch": "lenet"}
    assert matching(shown(mine, "l2", certifier), ROWS)
    assert matching(shown(mine | {"method": {"kind": kind}}, "l2", certifier), ROWS) == []


@pytest.mark.parametrize("change", [{"dataset": "mnist-5k"}, {"arch": "lenet@pool1"}, {"arch": "lene*"}])
def test_another_data_set_or_architecture_meets_no_row(change: dict[str, str]) -> None:
    mine = {"method": {"kind": "GaussianNoise"}, "dataset": "mnist", "arch": "lenet"}
    certifier = RECIPES["gaussian-mnist-0.50"].method.certifier()
    assert matching(shown(mine | change, "l2", certifier), ROWS) == []
    assert matching(shown(mine, "linf", certifier), ROWS) == []


def test_a_row_meets_runs_of_its_own_sigma_or_of_any_where_it_states_none() -> None:
    curve = run_of(RECIPES["gaussian-mnist-0.25"])
    assert {row.sigma for row in matching(curve, ROWS)} == {0.25, None}
    split = run_of(RECIPES["splitz-mnist-0.50"])
    assert split.sigma == 0.5
    assert [row.method for row in matching(split, ROWS)] == ["Splitz"]


def test_a_row_beyond_the_reach_of_a_run_is_not_shown_beside_it() -> None:
    row = Published("paper", "table", "https://example.org", "how", "GaussianNoise", "mnist", ("lenet",), "l2", "far")
    far = row.__class__(**{**vars(row), "accuracy": {0.0: 90.0, 1.5: 50.0}})
    recipe = {"method": {"kind": "GaussianNoise"}, "dataset": "mnist", "arch": "lenet"}
    curve = shown(recipe, "l2", RECIPES["gaussian-mnist-0.25"].method.certifier())
    assert beside([curve], [far], [1.5]) == []
    (table,) = beside([curve], [far], [0.0, 1.5])
    assert table.rows[1][2] == "90.0"
