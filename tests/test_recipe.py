"""Recipes: defaults, departures, types, and errors that name the nearest key."""

from __future__ import annotations

import re
import tomllib
from dataclasses import asdict
from importlib import resources

import pytest

from alexnet.base.errors import AlexNetError
from alexnet.networks import variants
from alexnet.networks.variants import VARIANTS
from alexnet.reproduction import claims
from alexnet.training import recipe
from alexnet.training.recipe import Recipe


@pytest.mark.parametrize("name", recipe.shipped())
def test_shipped_recipes_load_and_state_departures_only(name):
    text = (resources.files("alexnet") / "training" / "recipes" / f"{name}.toml").read_text("utf-8")
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


@pytest.mark.parametrize(
    ("item", "sentence"),
    [
        ("learning_rte=1", "no key 'learning_rte'; did you mean 'learning_rate'"),
        ("lr=1", "no key 'lr'; did you mean 'learning_rate'"),
        ("Batch_Size=1", "no key 'Batch_Size'; did you mean 'batch_size'"),
        ("epochs", "takes key=value"),
        ("epochs=many", "epochs was given 'many'; it takes a whole number, 1 to 2,147,483,647"),
        ("epochs=2.5", "epochs was given '2.5'; it takes a whole number"),
        ("epochs=1e9", "epochs was given '1e9'; it takes a whole number"),
        (f"epochs={'9' * 5000}", "it takes a whole number"),
        ("epochs=0", "it takes a whole number, 1 to"),
        ("seed=9999999999999999999", "it takes a whole number, 0 to 9,223,372,036,854,775,807"),
        ("channels=2", "channels was given '2'; it takes 1 or 3"),
        ("input=100000", "it takes a whole number, 0 to 2,048"),
        ("crop_area=0", "it takes a number, more than 0, 1 at most"),
        ("momentum=1", "it takes a number, 0 or more and less than 1"),
        ("learning_rate=nan", "it takes a number, 0 or more"),
        ("learning_rate=inf", "it takes a number, 0 or more"),
        ("crops=perhaps", "crops was given 'perhaps'; it takes true or false"),
        ("schedule=cosin", "it takes steps, plateau, linear or cosine"),
        ("drops=a,b", "takes numbers with commas, for example 22,49,81, each 0 or more"),
        ("drops=1,-2", "drops was given '-2.0'; it takes numbers"),
        ("weights=\udcff.pth", "is not UTF-8"),
    ],
)
def test_a_wrong_set_says_what_was_given_and_what_is_expected(item, sentence):
    with pytest.raises(AlexNetError, match=re.escape(sentence)):
        recipe.resolve("digits", [item])


@pytest.mark.parametrize("key", recipe.KEYS)
def test_every_key_has_a_meaning_keeps_its_bounds_and_reads_back(key):
    known, default = recipe.KEYS[key], getattr(Recipe(), key)
    kind, little = type(default), 1 if type(default) is int else 1e-6
    edges = [known.low + known.above * little, min(known.high, 1e300) - known.below * little]
    beyond = [known.low - (0 if known.above else little), known.high if known.below else known.high + little]
    others = {bool: [not default], str: ['a é😀\x7f"\\b'], tuple: [(), (1.5, 1e22)]}
    listed = {"augment": ["gray", "erase=0.5, gray"], "sinks": ["mlflow, wandb"]}  # names that stand in a list
    others[str] = listed.get(key, others[str])
    right = known.choices or others.get(kind) or [kind(x) for x in edges]
    wrong = ["?", [1]] if known.choices else {bool: [1], str: [1, "\udcff"], tuple: [1.0, (-1.0,)]}.get(kind, beyond)
    assert 10 <= len(known.meaning) <= 95
    for value in right:
        one = recipe.override(Recipe(), {key: value})
        assert recipe.from_toml(recipe.to_toml(one), "recipe.toml") == one
    for value in wrong:
        with pytest.raises(AlexNetError, match=f"^recipe key {key} was given "):
            recipe.override(Recipe(), {key: value})


@pytest.mark.parametrize(
    ("contents", "sentence"),
    [
        (b"epochs =", "mine.toml is not valid TOML"),
        (b"epochs = 1\nepochs = 2", "mine.toml is not valid TOML"),
        (b"drops = " + b"[" * 5000, "mine.toml is not valid TOML"),
        (b"epochs = " + b"9" * 5000, "mine.toml is not valid TOML"),
        (b"epochs = 1e9", "epochs was given '1000000000.0'; it takes a whole number"),
        (b"[epochs]\na = 1", "epochs was given '{'a': 1}'; it takes a whole number"),
        (b"drops = [[1]]", "it takes numbers"),
        (b"seed = 2012-09-30", "seed was given '2012-09-30'; it takes a whole number"),
        (b"learning_rate = " + b"9" * 400, "it takes a number"),
        (b"\xff\xfee", "cannot be read"),
    ],
)
def test_a_recipe_file_that_is_none_is_one_sentence(tmp_path, contents, sentence):
    file = tmp_path / "mine.toml"
    file.write_bytes(contents)
    with pytest.raises(AlexNetError, match=re.escape(sentence)):
        recipe.resolve(str(file))


def test_a_recipe_file_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "mine.toml").write_bytes(b"\xef\xbb\xbfepochs = 3")
    assert recipe.resolve(str(tmp_path / "mine.toml")).epochs == 3


def test_an_option_that_is_another_name_of_a_key_must_not_contradict_set():
    assert recipe.with_options(["epochs=2"], {"epochs": "02", "seed": None}) == ["epochs=2", "epochs=02"]
    with pytest.raises(AlexNetError, match=r"--lr was given 0.1 and --set learning_rate=0.2, which is the same key"):
        recipe.with_options(["learning_rate=0.2"], {"learning_rate": "0.1"})
    for key in recipe.OPTIONS:  # what is no number is told as that of --set is
        with pytest.raises(AlexNetError, match=f"recipe key {key} was given 'nan'"):
            recipe.resolve("digits", recipe.with_options([], {key: "nan"}))


@pytest.mark.parametrize(
    ("ask", "said"),
    {
        "recipe": (recipe.resolve, "there is no recipe 'zzz'. Give"),
        "key": (lambda name: recipe.resolve("digits", [f"{name}=1"]), "no key 'zzz'. alexnet recipes --keys"),
        "variant": (variants.variant, "there is no variant 'zzz'. The variants"),
        "claim": (claims.claim, "there is no claim 'zzz'. The claims"),
        "sink": (lambda name: recipe.resolve("digits", [f"sinks={name}"]), "none of them. It takes"),
        "step": (lambda name: recipe.resolve("digits", [f"augment={name}"]), "none of its steps. "),
    }.values(),
)
def test_a_name_like_no_other_is_not_answered_with_a_guess(ask, said):
    with pytest.raises(AlexNetError) as error:
        ask("zzz")
    assert said in str(error.value)


def test_unknown_recipes_name_the_nearest(tmp_path):
    with pytest.raises(AlexNetError, match="did you mean 'paper_2012'"):
        recipe.resolve("paper2012")
    with pytest.raises(AlexNetError, match="there is no recipe file"):
        recipe.resolve(str(tmp_path / "none.toml"))
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(AlexNetError, match="cannot be read"):
        recipe.resolve(str(tmp_path / "folder.toml"))
