"""Model cards: a person's text and metadata are kept around our marked section, which each push replaces."""

import pytest
import yaml
from transformers.modelcard import TrainingSummary

from hf_mixup.hub.card_section import BEGIN, END, MARK, merged, parse, split

OURS = {"library_name": "timm", "tags": ["mixup", "hf_mixup"], "model-index": [{"name": "a", "results": []}]}
LAUGHS = "a: &a [x, x, x]\n" + "\n".join(
    f"b{i}: &b{i} [{', '.join([f'*b{i - 1}' if i else '*a'] * 9)}]" for i in range(9)
)
PERSON = "---\nlicense: mit\nlibrary_name: keras\ntags:\n- flowers\n---\n\n# Flowers\n\nTaken in 2020.\n"


def card(text: str) -> tuple[dict, str]:
    """Metadata and body; the body has one section of ours."""
    metadata, body = split(text)
    assert len(MARK.findall(body)) == 2 and body.count(END) == 1
    return metadata, body


def test_a_persons_text_and_metadata_are_kept_and_ours_are_added():
    metadata, body = card(merged("# Ours", OURS, [parse(PERSON)]))
    assert body.startswith("\n# Flowers\n\nTaken in 2020.\n\n<!-- hf_mixup: begin") and "# Ours" in body
    assert metadata == {**OURS, "license": "mit", "library_name": "keras", "tags": ["flowers", "mixup", "hf_mixup"]}


def test_the_next_push_replaces_our_section_and_our_metadata_only():
    first = merged("# Ours", OURS, [parse(PERSON)])
    edited = first.replace("license: mit", "license: apache-2.0") + "\nA line below.\n"
    new = OURS | {"model-index": [{"name": "b", "results": []}]}
    metadata, body = card(merged("# New", new, [parse(edited)]))
    assert "# Ours" not in body and "# New" in body and body.rstrip().endswith("A line below.")
    assert (metadata["license"], metadata["library_name"]) == ("apache-2.0", "keras")
    assert metadata["model-index"] == new["model-index"]
    again = merged("# New", new, [parse(edited)])
    assert merged("# New", new, [parse(again)]) == again


def test_values_that_we_wrote_and_no_longer_write_are_dropped():
    first = merged("# Ours", OURS | {"datasets": ["user/old"]}, [])
    assert "datasets" not in card(merged("# Ours", OURS, [parse(first)]))[0]


def test_the_card_that_was_edited_last_wins_and_two_edited_cards_are_both_kept():
    pushed = merged("# Ours", OURS, [parse(PERSON)])
    edited = pushed.replace("Taken in 2020.", "Taken in 2021.")
    for cards in ([pushed, edited], [edited, pushed]):  # in the folder, in the repository
        body = card(merged("# Ours", OURS, [parse(text) for text in cards]))[1]
        assert "2021" in body and "2020" not in body
    body = card(merged("# Ours", OURS, [parse(edited), parse(pushed.replace("2020", "2022"))]))[1]
    assert "2021" in body and "2022" in body
    body = card(merged("# Ours", OURS, [parse(merged("# Ours", OURS, [])), parse(pushed)]))[1]
    assert "2020" in body  # the folder of a new run, and the repository of an earlier one


def test_text_that_a_person_deleted_stays_deleted():
    pushed = merged("# Ours", OURS, [parse(PERSON)])
    deleted = pushed.replace("# Flowers\n\nTaken in 2020.\n\n", "")
    assert "Flowers" not in merged("# Ours", OURS, [parse(deleted), parse(pushed)])


def test_an_unedited_card_of_transformers_is_replaced_and_an_edited_one_is_kept():
    stock = TrainingSummary("x", license="mit", tags=["generated_from_trainer"]).to_model_card()
    metadata, body = card(merged("# Ours", OURS, [parse(stock)]))
    assert "More information needed" not in body and metadata == {"license": "mit", **OURS}
    edited = stock.replace("## Model description\n\nMore information needed", "## Model description\n\nA flower.")
    for text in (edited, stock + "\nA flower.\n", stock.replace("# x\n", "# x\n\nA flower.\n")):
        assert "A flower." in merged("# Ours", OURS, [parse(text)])


@pytest.mark.parametrize(
    "front",
    [
        "a: [",
        "- a list",
        "a: 1\na: 2",
        "a: &a [x, x, x]\n"
        + "\n".join(f"b{i}: &b{i} [{', '.join([f'*b{i - 1}' if i else '*a'] * 9)}]" for i in range(9)),
        "a: &a [*a]",
    ],
)
def test_front_matter_that_cannot_be_read_is_kept_as_text(front):
    text = merged("# Ours", OURS, [parse(f"---\n{front}\n---\n\n# Mine\n")])
    metadata, body = card(text)
    assert metadata == OURS and front.splitlines()[0] in body and "# Mine" in body
    assert merged("# Ours", OURS, [parse(text)]) == text


def test_windows_line_ends_and_other_text_cannot_break_the_section():
    text = merged(f"# Ours {END} {BEGIN}", OURS, [parse(PERSON.replace("\n", "\r\n"))])
    assert card(text)[0]["license"] == "mit"
    lone = parse(text.replace(END, ""))
    assert "Taken in 2020." in card(merged("# Ours", OURS, [lone]))[1]
    assert yaml.safe_load(text.split("---")[1])["license"] == "mit"
