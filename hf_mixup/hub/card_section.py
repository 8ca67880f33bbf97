"""Our section of a model card (README.md), between two HTML comments. What a person writes around it is kept.

The first comment has digests of the metadata that we wrote and of the text around the section, so that later changes of
a person are told from our own values, and the newer of two texts from the older one.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml
from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

from ..plain_data import Damaged, parse_yaml
from .retry import retried

CARD = "README.md"
FRONT_MATTER = re.compile(r"\s*---[ \t]*\n(.*?)(?:^|\n)---[ \t]*(?:\n|$)", re.DOTALL)
SECTION = re.compile(r"<!-- hf_mixup: begin(?P<state>[^>]*)-->.*?<!-- hf_mixup: end -->\n?", re.DOTALL)
MARK = re.compile(r"<!-- hf_mixup: (?:begin[^>]*|end )-->\n?")
BEGIN = "<!-- hf_mixup: begin. Write above or below this section, which the next push replaces. {} -->"
END = "<!-- hf_mixup: end -->"
UNMARKED = re.compile(  # a card of hf_mixup 0.1
    r"^# [^\n]*\n\n[^\n]* by hf_mixup on .*?<summary>The complete recipe, \w{16}</summary>.*?\n</details>\n?"
    r"(?:\s*<details>\n<summary>The \d+ classes</summary>.*?\n</details>\n?)?",
    re.DOTALL | re.MULTILINE,
)
NOTHING = "-" * 8
NEEDED = "More information needed\n\n"
STOCK = re.compile(  # transformers' card, in which nobody has written
    r"\s*<!-- This model card has been generated automatically[^>]*-->\s*# [^\n]*\n\nThis model [^\n]*\n"
    r"(?:It achieves the following results on the evaluation set:\n(?:- [^\n]*\n)*)?\n"
    rf"## Model description\n\n{NEEDED}## Intended uses & limitations\n\n{NEEDED}## Training and evaluation data\n\n"
    rf"{NEEDED}## Training procedure\n(?:\n### Training hyperparameters\n\n(?:[^\n#]+\n)+)?"
    r"(?:\n### Training results\n\n(?:\|[^\n]*\n)*\s*)?\s*### Framework versions\n\n(?:- [^\n]*\n?)*\s*"
)
OURS = ("library_name", "pipeline_tag", "base_model", "datasets", "metrics", "tags", "model-index")
OF_STOCK = ("library_name", "metrics", "model-index")


@dataclass(frozen=True)
class Card:
    """The parts of a model card that are a person's, and their digest when we last wrote the card."""

    metadata: dict = field(default_factory=dict)
    before: str = ""
    after: str = ""
    written: str | None = None  # None without a marked section

    @property
    def text(self) -> str:
        """The text around our section."""
        return "\n\n".join(filter(None, (self.before, self.after)))

    @property
    def digest(self) -> str | None:
        """Of text and metadata; None if there are none."""
        return _digest([self.text, self.metadata]) if self.text or self.metadata else None

    @property
    def edited(self) -> bool:
        """Whether a person changed the card since we last wrote it."""
        return self.digest != (None if self.written in (None, NOTHING) else self.written)


def read_card(file: Path) -> str:
    """The text of a card; OSError if it cannot be read."""
    content = file.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeError:
        return content.decode("latin-1")


def split(text: str) -> tuple[dict, str]:
    """Metadata and body of a card. Front matter that is not valid YAML is part of the body."""
    text = text.replace("\r\n", "\n")
    if match := FRONT_MATTER.match(text):
        try:
            found = parse_yaml(match[1]) or {}
        except Damaged:
            return {}, text
        if isinstance(found, dict):
            return found, text[match.end() :]
    return {}, text


def parse(text: str) -> Card:
    """The parts of a card that a person wrote."""
    metadata, body = split(text)
    if section := SECTION.search(body):
        state = dict(re.findall(r"(\S+)=([\w-]{8})", section["state"]))
        metadata = {key: value for key, value in metadata.items() if state.get(str(key)) != _digest(value)}
        after = MARK.sub("", SECTION.sub("", body[section.end() :]))
        return Card(metadata, body[: section.start()].strip(), after.strip(), state.get("person"))
    if STOCK.fullmatch(body):
        return Card(_without(metadata, OF_STOCK, "generated_from_trainer"))
    if unmarked := UNMARKED.search(body):
        metadata = _without(metadata, OURS, "hf_mixup")
        return Card(metadata, body[: unmarked.start()].strip(), body[unmarked.end() :].strip())
    return Card(metadata, MARK.sub("", body).strip())


def merged(section: str, metadata: dict, cards: Sequence[Card]) -> str:
    """The text of a card with our `section` and `metadata`, and with what persons wrote in `cards`.

    A person's metadata replaces ours, except that lists of tags are joined.
    """
    person = _newest(cards)
    values = dict(person.metadata)
    if isinstance(values.get("tags"), list) and "tags" in metadata:
        values["tags"] = list(dict.fromkeys([*map(str, values["tags"]), *metadata["tags"]]))
    ours = {key: value for key, value in metadata.items() if key not in values}
    digest = replace(person, metadata=values).digest
    state = {"person": digest or NOTHING, **{key: _digest(value) for key, value in ours.items()}}
    begin = BEGIN.format(" ".join(f"{key}={value}" for key, value in state.items()))
    front = yaml.safe_dump(values | ours, sort_keys=False, allow_unicode=True)
    marked = f"{begin}\n\n{MARK.sub('', section).strip()}\n\n{END}"
    body = "\n\n".join(filter(None, (person.before, marked, person.after)))
    return f"---\n{front}---\n\n{body}\n"


def _newest(cards: Sequence[Card]) -> Card:
    """The card that was edited; both in one if several were; the last that a person wrote if none was."""
    edited = {card.digest: card for card in cards if card.edited}
    if len(edited) > 1:
        texts = dict.fromkeys(card.text for card in edited.values() if card.text)
        metadata = {key: value for card in reversed(edited.values()) for key, value in card.metadata.items()}
        return Card(metadata, "\n\n".join(texts))
    return next(iter([*edited.values(), *(card for card in reversed(cards) if card.digest), Card()]))


def _without(metadata: dict, keys: Sequence[str], tag: str) -> dict:
    """The metadata of a card that a program wrote, without the keys and the tag that it sets."""
    tags = metadata.get("tags")
    if not (isinstance(tags, list) and tag in tags):
        return metadata
    kept = {key: value for key, value in metadata.items() if key not in (*keys, "tags")}
    others = [] if "tags" in keys else [value for value in tags if value != tag]
    return {**kept, "tags": others} if others else kept


def _digest(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def in_folder(folder: Path) -> list[Card]:
    """The card in a folder, in a list; an empty list if there is none. OSError if it cannot be read."""
    return [parse(read_card(folder / CARD))] if (folder / CARD).is_file() else []


def on_hub(api: HfApi, repo: str, revision: str | None = None) -> list[Card]:
    """The card in a repository, in a list; an empty list if there is no card, branch or repository."""

    def download():
        head = api.repo_info(repo, revision=revision)
        if CARD not in {entry.rfilename for entry in head.siblings or []}:
            return []
        return [parse(read_card(Path(api.hf_hub_download(repo, CARD, revision=head.sha))))]

    try:
        return retried(download, f"read the card of {repo}")
    except (RepositoryNotFoundError, RevisionNotFoundError):
        return []
