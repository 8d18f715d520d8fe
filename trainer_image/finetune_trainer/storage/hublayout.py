"""Which files of a dataset of the hub are which split, by the hub's own documented rules; pure.

Below ``hubrows.py``, which reads the listing and the card. The rules are those of the hub's page on repository
structure and of its ``datasets`` library: what ``configs`` in the card's metadata says, else the names of folders and
files. Code of a repository is never run, and never needed: what only its script can read is refused.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any, Final

import yaml

from finetune_trainer.storage.rowfiles import GivenPart, format_of_name, missing_shard

__all__ = ["CONVERTED", "Config", "LayoutError", "card_of", "choose_config", "part_of_split", "splits_of"]

CONVERTED: Final = "refs/convert/parquet"
"""Branch on which the hub keeps its own Parquet of a dataset, one folder a configuration and in it one a split."""

SPELLINGS: Final[Mapping[GivenPart, tuple[str, ...]]] = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""Words of the hub's rules; each names the split that it stands under."""

_SPLIT: Final = re.compile(r"\w+(\.\w+)*")
_SHARD: Final = re.compile(r"data/([^/]*)-\d{5}-of-\d{5}[^/]*\.[^/]*")
_CONVERTED: Final = re.compile(r"([^/]+)/([^/]+)/\d+\.parquet")
_NEVER_ROWS: Final = frozenset(
    ("README.md", "config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json")
)
_SEPARATORS: Final = "[-._ 0-9]"
_JSON: Final = frozenset(("Json", "Jsonl"))
_SHOWN: Final = 20


class LayoutError(Exception):
    """Why the files of a dataset can't be told apart; the message has its mend, and no field."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """One configuration of a dataset.

    Attributes
    ----------
    name
        As the card has it; ``default`` where it has none.
    patterns
        Split to patterns of its files; None where the names of files tell.
    folder
        Below which the files lie; empty for the whole repository.
    is_default
        Whether it is taken where none is named.
    """

    name: str
    patterns: Mapping[str, tuple[str, ...]] | None = None
    folder: str = ""
    is_default: bool = False


_WILD: Final = re.compile(r"[*?]")


def card_of(text: str) -> dict[str, Any]:
    """Return the metadata at the top of a card; empty if there is none.

    Raises
    ------
    LayoutError
        It is no YAML.
    """
    lines = text.removeprefix("\ufeff").splitlines()
    if not lines or lines[0].rstrip() != "---" or "---" not in (rest := [line.rstrip() for line in lines[1:]]):
        return {}
    try:
        card = yaml.safe_load("\n".join(rest[: rest.index("---")]))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        why = " ".join(str(error).split())[:200]
        raise LayoutError(f"the metadata in its README.md is no YAML ({why}); correct it there") from None
    return card if isinstance(card, dict) else {}


def choose_config(card: Mapping[str, Any], names: Sequence[str], wanted: str | None, revision: str | None) -> Config:
    """Return the configuration that is named, or the only one, or the default one.

    Raises
    ------
    LayoutError
        There is none of that name, or several and none named; lists them.
    """
    configs = _converted(names) if revision == CONVERTED else []
    configs = configs or _configs(card) or [Config(name="default")]
    listed = _listed(config.name for config in configs)
    if wanted is not None:
        found = [config for config in configs if config.name == wanted]
        if not found:
            raise LayoutError(f"it has no configuration {wanted!r}, but {listed}; correct the name in the URI")
        return found[0]
    chosen = configs if len(configs) == 1 else [config for config in configs if config.is_default]
    if len(chosen) != 1:
        raise LayoutError(
            f"it has the configurations {listed}; name one of them in the URI, as in "
            f"hf://datasets/org/name/{configs[0].name}"
        )
    return chosen[0]


def splits_of(config: Config, names: Iterable[str], declared: str, script: str) -> dict[str, list[str]]:
    """Return the files of each split, sorted, in the order of the splits.

    Parameters
    ----------
    names
        All files of the repository.
    declared
        ``format`` of the spec; other files are passed over unless it is ``Auto``.
    script
        Name of the file that would be the repository's loading script.

    Raises
    ------
    LayoutError
        A script is needed, there are no files of rows, or a file belongs to two splits.
    """
    every = sorted(names)
    if script in every:
        raise LayoutError(
            f"its rows are made by the program {script} in it, which is never run; use the hub's own Parquet of it: "
            f"write @{CONVERTED} behind the name in the URI"
        )
    rows = [name for name in every if _format(name, declared)]
    if config.patterns is not None:
        splits = {split: _matching(rows, patterns) for split, patterns in config.patterns.items()}
        for split, files in splits.items():
            if not files:
                patterns = _listed(config.patterns[split])
                raise LayoutError(
                    f"the split {split!r} of its configuration {config.name!r} has no file of rows: {patterns} of its "
                    f"README.md fits none that can be read{_other(every)}"
                )
    else:
        splits = _by_names(_matching(rows, ["**"]), config.folder)
    if not splits:
        raise LayoutError(f"there are no files of rows in it{_other(every)}")
    _check(splits)
    if missing := _missing(config, splits, every):
        raise LayoutError(
            f"the shard {missing[-160:]} is missing, which the names of the others count; take a revision that has it, "
            "or copy the files to s3://"
        )
    return splits


def part_of_split(split: str) -> GivenPart | None:
    """Return the part that the name of a split stands for; None for a name of its own, such as ``train_sft``."""
    return next((part for part, words in SPELLINGS.items() if split.casefold() in words), None)


def _configs(card: Mapping[str, Any]) -> list[Config]:
    listed = card.get("configs") or []
    if not isinstance(listed, list):
        raise LayoutError("configs in its README.md is no list; correct it there")
    found = []
    for one in listed:
        name = one.get("config_name") if isinstance(one, dict) else None
        if not isinstance(name, str):
            raise LayoutError("configs in its README.md has an entry without config_name; correct it there")
        files, folder = one.get("data_files"), one.get("data_dir") or ""
        if not isinstance(folder, str):
            raise LayoutError(f"data_dir of the configuration {name!r} in its README.md is no text; correct it there")
        folder = "/".join(element for element in folder.split("/") if element not in ("", "."))
        if ".." in folder.split("/"):
            raise LayoutError(
                f"data_dir of the configuration {name!r} in its README.md leads out of the repository; only files of "
                "its own are read"
            )
        patterns = None if files is None else _patterns(files, name, folder)
        is_default = name == "default" or one.get("default") is True
        found.append(Config(name=name, patterns=patterns, folder=folder, is_default=is_default))
    return found


def _patterns(files: Any, config: str, folder: str) -> dict[str, tuple[str, ...]]:
    """Read ``data_files``: a pattern, a list of them, or a list of splits with theirs."""
    by_split: dict[str, Any] = {"train": files}
    if isinstance(files, list) and any(isinstance(entry, dict) for entry in files):
        by_split = {str(e.get("split")): e.get("path") for e in files if isinstance(e, dict)}
        if len(by_split) < len(files):
            by_split = {"": None}
    found = {}
    for split, paths in by_split.items():
        texts = paths if isinstance(paths, list) else [paths]
        if not _SPLIT.fullmatch(split) or not texts or not all(isinstance(text, str) and text for text in texts):
            raise LayoutError(
                f"data_files of the configuration {config!r} in its README.md is neither a path, a list of paths nor "
                "a list of split and path, each split once; correct it there"
            )
        if any("://" in text or "::" in text for text in texts):
            raise LayoutError(
                f"data_files of the configuration {config!r} in its README.md leads out of the repository; only files "
                "of its own are read"
            )
        if any("**" in element and element != "**" for text in texts for element in text.split("/")):
            raise LayoutError(
                f"data_files of the configuration {config!r} in its README.md has '**' beside other characters; write "
                "**/* and what follows there"
            )
        below = f"{folder}/" if folder else ""
        found[split] = tuple(below + text.removeprefix("./") for text in texts)
    return found


def _converted(names: Iterable[str]) -> list[Config]:
    """Configurations of the hub's own Parquet; a split of which it converted a part alone is none."""
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    for name in names:
        if (match := _CONVERTED.fullmatch(name)) and not match[2].startswith("partial-"):
            found.setdefault(match[1], {})[match[2]] = (f"{_literal(match[1])}/{_literal(match[2])}/*.parquet",)
    return [Config(name=name, patterns=splits, is_default=name == "default") for name, splits in sorted(found.items())]


def _by_names(names: Sequence[str], folder: str) -> dict[str, list[str]]:
    """Tell splits by names: shards in ``data/``, else words in names of folders, else of files, else all is train."""
    below = f"{folder}/" if folder else ""
    inside = [name.removeprefix(below) for name in names if name.startswith(below)]
    shards: dict[str, list[str]] = {}
    for name in inside:
        if match := _SHARD.fullmatch(name):
            if not _SPLIT.fullmatch(match[1]):
                raise LayoutError(
                    f"{name[-80:]} would be of a split {match[1][:40]!r}, which is no name of a split; name its splits "
                    "in the configs of its README.md, or copy the files to s3://"
                )
            shards.setdefault(match[1], []).append(name)
    splits = _ordered(shards)
    for told in (_folder_tells, _file_tells):
        if not splits:
            by_part = {part: [n for n in inside if told(n, words)] for part, words in SPELLINGS.items()}
            splits = {part: files for part, files in by_part.items() if files}
    if not splits and inside:
        splits = {"train": inside}
    return {split: [below + name for name in files] for split, files in splits.items()}


def _ordered(splits: Mapping[str, list[str]]) -> dict[str, list[str]]:
    first = [split for split in SPELLINGS if split in splits]
    return {split: splits[split] for split in [*first, *sorted(splits.keys() - set(first))]}


def _folder_tells(name: str, words: Iterable[str]) -> bool:
    return any(_has_word(folder, words, whole=True) for folder in name.split("/")[:-1])


def _file_tells(name: str, words: Iterable[str]) -> bool:
    return _has_word(name.rpartition("/")[2], words, whole=False)


def _has_word(text: str, words: Iterable[str], *, whole: bool) -> bool:
    """Whether one of the words stands in a name, between separators; at its end for folders alone."""
    end = f"({_SEPARATORS}|$)" if whole else _SEPARATORS
    return any(re.search(f"(^|{_SEPARATORS}){word}{end}", text) for word in words)


def _format(name: str, declared: str) -> str | None:
    """Return the format of a file by its ending, if it may be a file of rows and of the declared format."""
    base = PurePosixPath(name).name
    kind = None if base in _NEVER_ROWS else format_of_name(base)
    return kind if declared in ("Auto", kind) or (declared in _JSON and kind in _JSON) else None


def _matching(names: Sequence[str], patterns: Iterable[str]) -> list[str]:
    found: dict[str, None] = {}
    for pattern in patterns:
        elements = pattern.split("/")
        found |= dict.fromkeys(n for n in names if _fits(n, elements) and not _is_hidden(n, pattern))
    return list(found)


def _is_hidden(name: str, pattern: str) -> bool:
    """Whether a file lies hidden (``.x``, ``__x__/``), and the pattern doesn't say so itself."""
    path, told = name.split("/"), pattern.split("/")
    dots = (sum(part.startswith(".") for part in parts) for parts in (path, told))
    unders = (sum(part.startswith("__") for part in parts[:-1]) for parts in (path, told))
    return len(set(dots)) > 1 or len(set(unders)) > 1


def _fits(name: str, pattern: Sequence[str]) -> bool:
    """Whether a path fits a pattern: ``*`` and ``?`` stay in a folder, ``**`` is any number of folders."""
    path = name.split("/")
    ends = {0}  # how far the path may be used up by the elements so far
    for place, element in enumerate(pattern):
        if element == "**" and place == len(pattern) - 1:
            return any(end < len(path) for end in ends)
        if element == "**":
            ends = set(range(min(ends), len(path))) if ends else ends
        else:
            ends = {end + 1 for end in ends if end < len(path) and fnmatchcase(path[end], element)}
    return len(path) in ends


def _literal(text: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in text)


def _missing(config: Config, splits: Mapping[str, Sequence[str]], names: Sequence[str]) -> str:
    """Name a shard that is missing; one that a card names by itself asks for no other."""
    if config.patterns is None:
        return missing_shard([name for files in splits.values() for name in files], names)
    patterns = [pattern for every in config.patterns.values() for pattern in every]
    alone = [pattern for pattern in patterns if not _WILD.search(pattern)]
    gone = next((one for one in alone if "-of-" in one and not _matching(names, [one])), "")
    return gone or missing_shard(_matching(names, [one for one in patterns if one not in alone]), names)


def _check(splits: Mapping[str, Sequence[str]]) -> None:
    """Refuse a file that belongs to two splits, and a split of files of several formats."""
    owners: dict[str, str] = {}
    for split, files in splits.items():
        for name in files:
            if owners.setdefault(name, split) != split:
                raise LayoutError(
                    f"{name[-80:]} belongs to the splits {owners[name]} and {split} at once; say in the configs of its "
                    "README.md which one it is for, or copy the files to s3://"
                )
        kinds = Counter("Jsonl" if (kind := format_of_name(n)) == "Json" else kind for n in files)
        if len(kinds) > 1:
            told = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
            raise LayoutError(
                f"the files of its split {split} are of several formats ({told}), which may hold the same rows twice; "
                "set the format to the one to read"
            )


def _other(names: Iterable[str]) -> str:
    """Say what lies there where no file of rows does."""
    endings = Counter(PurePosixPath(name).suffix for name in names if not name.startswith("."))
    told = ", ".join(f"{count} {ending or 'without ending'}" for ending, count in endings.most_common(5))
    known = "Parquet, JSON Lines, JSON, CSV, TSV and Arrow are read, by their endings"
    return f" (its files: {told}); {known}" if told else f"; {known}"


def _listed(names: Iterable[str]) -> str:
    every = list(names)
    return ", ".join(every[:_SHOWN]) + (f" and {len(every) - _SHOWN} more" if len(every) > _SHOWN else "")
