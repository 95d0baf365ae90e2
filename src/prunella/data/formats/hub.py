"""Data sets of the Hugging Face Hub."""

from __future__ import annotations

import datasets
from datasets.exceptions import DatasetNotFoundError

from prunella.data.presets import Preset, nearest, preset_of
from prunella.errors import InputError

# Where the Hub keeps tables of data sets that are scripts, which `datasets` no longer runs.
_CONVERTED = "refs/convert/parquet"


def read_hub(source: str, split: str | None) -> datasets.Dataset:
    """A split of `hub:NAME[/CONFIG]`; see `prunella.data.readers.read_table`.

    A name of `prunella.data.presets` is taken as such: where the data set lives, which split is
    meant by "validation", and what its classes are called.
    """
    parts = source.removeprefix("hub:").split("/")
    if not all(parts) or len(parts) > 3:
        raise InputError(f"{source}: expected hub:NAME, hub:OWNER/NAME or either with /CONFIG")
    if split is None:
        raise InputError(f"{source}: say which split to read, for instance 'train'")
    preset = preset_of(source)
    if preset and split.partition("[")[0] == "validation":
        split = split.replace("validation", preset.validation, 1)
    for name, config in _readings(parts, preset):
        try:
            table = load_hub(name, config, split)
        except DatasetNotFoundError:
            continue
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(f"cannot read {source}, split '{split}': {error}") from error
        if not isinstance(table, datasets.Dataset) or not len(table):
            raise InputError(f"{source}, split '{split}': no rows")
        return _with_names(table, preset) if preset else table
    close = nearest(source)
    hint = f" (did you mean '{close}'?)" if close and not preset else ""
    raise InputError(
        f"{source}: the Hub has no such data set{hint}, or it is private, or you are offline"
    )


def _readings(parts: list[str], preset: Preset | None) -> list[tuple[str, str | None]]:
    """What a source may mean: data set and configuration, the likeliest first."""
    if preset:
        likeliest = [(preset.path, preset.config)]
    elif len(parts) == 3:
        likeliest = []
    else:  # Two parts may be OWNER/NAME or NAME/CONFIG; today's Hub has an owner for nearly all.
        likeliest = [("/".join(parts), None)]
    if len(parts) == 3:
        return [*likeliest, ("/".join(parts[:2]), parts[2])]
    return [*likeliest, (parts[0], parts[1] if len(parts) == 2 else None)]


def load_hub(name: str, config: str | None, split: str) -> object:
    """A split of a data set; of one that is a script, as the Hub converted it.

    Raises:
        OSError, ValueError, RuntimeError: Whatever `datasets` says: it is not there, has no such
            configuration or split, or is a script without a conversion.
    """
    try:
        return datasets.load_dataset(name, config, split=split)
    except RuntimeError as error:
        if "scripts are no longer supported" not in str(error):
            raise
    return datasets.load_dataset(name, config, split=split, revision=_CONVERTED)


def _with_names(table: datasets.Dataset, preset: Preset) -> datasets.Dataset:
    """The table, its numbers named by the preset where they have no names of their own."""
    column = preset.columns.label
    if not preset.labels or column not in table.column_names:
        return table
    feature = table.features[column]
    plain = getattr(feature, "feature", feature)
    if not isinstance(plain, datasets.Value) or not plain.dtype.startswith("int"):
        return table
    named = datasets.ClassLabel(names=list(preset.labels))
    return table.cast_column(column, named if plain is feature else datasets.List(named))
