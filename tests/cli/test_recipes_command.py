"""`hf-mixup recipes`: the recipes of the package."""

from hf_mixup.cli import recipes
from hf_mixup.config import parse
from hf_mixup.config.catalog import packaged_recipes


def test_every_recipe_has_a_method_and_a_description():
    found = packaged_recipes()
    assert len(found) > 200 and all(info.method and info.description for info in found)
    assert all(info.description for info in found if info.name == "quickstart" and "CPU cores" in info.description)
    assert not [info for info in found if info.name.endswith("base") or info.name.startswith("accelerate")]


def test_the_method_is_that_of_the_parsed_recipe():
    for info in packaged_recipes()[::40]:
        assert parse([info.name, "--use_cpu"]).method == info.method


def test_a_word_selects_recipes_by_name_method_or_description(capsys):
    assert recipes.main(["TransMix"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["recipe", "method", "description"] and lines
    assert all("transmix" in line.lower() for line in lines)


def test_a_word_that_no_recipe_has_is_refused(capsys):
    assert recipes.main(["quikstart"]) == 2
    assert "'quickstart'" in capsys.readouterr().err
