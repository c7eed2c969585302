"""Recipes: defaults, departures, types, and errors that name the nearest key."""

from __future__ import annotations

import tomllib
from dataclasses import asdict
from importlib import resources

import pytest

from alexnet import recipe
from alexnet.errors import AlexNetError
from alexnet.recipe import Recipe
from alexnet.variants import VARIANTS


@pytest.mark.parametrize("name", recipe.shipped())
def test_shipped_recipes_load_and_state_departures_only(name):
    text = (resources.files("alexnet") / "recipes" / f"{name}.toml").read_text("utf-8")
    default = asdict(Recipe())
    for key, value in tomllib.loads(text).items():
        assert default[key] != value, f"{key} restates the default"
    assert recipe.resolve(name).variant in VARIANTS
    assert "# Command: " in text


def test_the_default_is_the_authors_run():
    assert recipe.resolve() == recipe.resolve("author_2012") == Recipe()
    default = Recipe()
    assert (default.batch_size, default.momentum, default.weight_decay) == (128, 0.9, 0.0005)
    assert (default.learning_rate, default.epochs, default.drops) == (0.01, 95, (22, 49, 81))


def test_set_goes_over_the_recipe_and_the_recipe_over_the_default():
    got = recipe.resolve("digits", ["learning_rate=1e-3", "crops=false", "drops=1,2.5", "variant=alexnet64"])
    assert (got.learning_rate, got.crops, got.drops, got.variant) == (1e-3, False, (1.0, 2.5), "alexnet64")
    assert got.channels == 1
    assert got.momentum == 0.9


def test_the_resolved_recipe_reads_back_as_itself():
    one = recipe.resolve("digits", ["seed=7", "drops=", "learning_rate=1e-05"])
    assert recipe.from_toml(recipe.to_toml(one), "recipe.toml") == one


def test_a_toml_file_is_a_recipe(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('epochs = 3\nvariant = "alexnet32"\nlearning_rate = 1\n')
    assert recipe.resolve(str(file)).learning_rate == 1.0
    file.write_text("epochs =")
    with pytest.raises(AlexNetError, match=r"mine.toml is not valid TOML"):
        recipe.resolve(str(file))


@pytest.mark.parametrize(
    ("item", "sentence"),
    [
        ("learning_rte=1", "no key 'learning_rte'; did you mean 'learning_rate'"),
        ("epochs", "takes key=value"),
        ("epochs=many", "epochs takes a whole number"),
        ("epochs=2.5", "epochs takes a whole number"),
        ("epochs=0", "it takes 1 or more"),
        ("batch_size=-1", "it takes 1 or more"),
        ("learning_rate=nan", "it takes 0 or more"),
        ("crops=perhaps", "crops takes true or false"),
        ("schedule=cosin", "it takes steps or plateau or linear"),
        ("drops=a,b", "takes a list of numbers"),
    ],
)
def test_a_wrong_set_says_what_was_given_and_what_is_expected(item, sentence):
    with pytest.raises(AlexNetError, match=sentence):
        recipe.resolve("digits", [item])


def test_unknown_recipes_name_the_nearest(tmp_path):
    with pytest.raises(AlexNetError, match="did you mean 'paper_2012'"):
        recipe.resolve("paper2012")
    with pytest.raises(AlexNetError, match="there is no recipe file"):
        recipe.resolve(str(tmp_path / "none.toml"))
