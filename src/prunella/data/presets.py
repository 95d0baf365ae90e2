"""Data sets of the Hub by their usual names: where they are, which columns hold what, what counts.

`hub:sst2`, `hub:glue/sst2` and `hub:nyu-mll/glue/sst2` mean the same preset; case, "-" and "_" do
not matter ("hub:STS-B"). The metric that decides is the one that is published for the task; for
MRPC, QQP and STS-B, where there are two, the one in the tables of BERT (Devlin et al. 2019).
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace

from prunella.data.tasks import Columns

_GLUE = "nyu-mll/glue"
_ENTITIES = tuple("O B-PER I-PER B-ORG I-ORG B-LOC I-LOC B-MISC I-MISC".split())


@dataclass(frozen=True)
class Preset:
    """A task of the Hub.

    Attributes:
        name: Its usual name.
        path: Of the data set, OWNER/NAME.
        config: Of the data set, where it has several.
        kind: Of task.
        columns: Which columns hold what.
        metric: The one that decides.
        validation: The split with labels that is no training data.
        labels: Names of the classes, for data that holds plain numbers.
        aliases: Other names.
    """

    name: str
    path: str
    config: str | None
    kind: str
    columns: Columns
    metric: str
    validation: str = "validation"
    labels: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()

    def names(self) -> set[str]:
        """All that it is called, as `_plain` writes names."""
        called = {self.name, *self.aliases}
        places = {self.path, self.path.split("/")[1]}
        if self.path == _GLUE:
            called |= {f"{place}/{name}" for place in places for name in tuple(called)}
        else:
            called |= places | {f"{place}/{self.config}" for place in places if self.config}
        return {_plain(name) for name in called}


def preset_of(source: str) -> Preset | None:
    """The preset that a source names ("hub:sst2"), or None."""
    if not source.startswith("hub:"):
        return None
    return _BY_NAME.get(_plain(source.removeprefix("hub:")))


def settled(source: str, columns: Columns, kind: str) -> tuple[Columns, str]:
    """Columns and kind of a task: as set, else the preset's of this source, where there is one.

    Args:
        source: See `prunella.data.readers.read_table`.
        columns: As the user names them.
        kind: As the user sets it; "auto" leaves it open. A preset of another kind is no help.
    """
    preset = preset_of(source)
    if preset is None or kind not in ("auto", preset.kind):
        return columns, kind
    texts, label = preset.columns, columns.label or preset.columns.label
    if columns.text or columns.pair or columns.choices:
        texts = columns
    return replace(texts, label=label), preset.kind


def official_metric(kind: str, *sources: str | None) -> str | None:
    """The metric that decides, by the first source that is a preset of this kind."""
    presets = [preset_of(source) for source in sources if source]
    return next((preset.metric for preset in presets if preset and preset.kind == kind), None)


def nearest(source: str) -> str | None:
    """The preset whose name is most like that of a source that is none."""
    close = difflib.get_close_matches(_plain(source.removeprefix("hub:")), _BY_NAME, n=1)
    return f"hub:{_BY_NAME[close[0]].name}" if close else None


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def _glue(
    name: str, texts: Columns, metric: str = "accuracy", kind: str = "classification"
) -> Preset:
    return Preset(name, _GLUE, name, kind, replace(texts, label="label"), metric)


_ONE = Columns(text="sentence")
_TWO = Columns("sentence1", "sentence2")
_MNLI = _glue("mnli", Columns("premise", "hypothesis"))
_SQUAD = Columns("question", "context", "answers")

PRESETS = (
    _glue("cola", _ONE, "matthews"),
    _glue("sst2", _ONE),
    _glue("mrpc", _TWO, "f1"),
    _glue("stsb", _TWO, "spearman", "regression"),
    _glue("qqp", Columns("question1", "question2"), "f1"),
    replace(_MNLI, validation="validation_matched", aliases=("mnli-m", "mnli_matched")),
    replace(
        _MNLI,
        name="mnli_mismatched",
        validation="validation_mismatched",
        aliases=("mnli-mm",),
    ),
    _glue("qnli", Columns("question", "sentence")),
    _glue("rte", _TWO),
    _glue("wnli", _TWO),
    Preset("squad", "rajpurkar/squad", None, "question-answering", _SQUAD, "f1"),
    Preset("squad_v2", "rajpurkar/squad_v2", None, "question-answering", _SQUAD, "f1"),
    Preset(
        "conll2003",
        "lhoestq/conll2003",  # eriktks/conll2003 is a script, which `datasets` no longer runs
        None,
        "token-classification",
        Columns(text="tokens", label="ner_tags"),
        "f1",
        labels=_ENTITIES,
        aliases=("eriktks/conll2003",),
    ),
    Preset(
        "swag",
        "allenai/swag",
        "regular",
        "multiple-choice",
        Columns(text="startphrase", label="label", choices="ending0,ending1,ending2,ending3"),
        "accuracy",
    ),
    Preset(
        "go_emotions",
        "google-research-datasets/go_emotions",
        "simplified",
        "multi-label",
        Columns(text="text", label="labels"),
        "f1_macro",  # as in its paper, arXiv 2005.00547
    ),
    Preset(
        "ag_news",
        "fancyzhx/ag_news",
        None,
        "classification",
        Columns(text="text", label="label"),
        "accuracy",
        validation="test",
    ),
    Preset(
        "imdb",
        "stanfordnlp/imdb",
        None,
        "classification",
        Columns(text="text", label="label"),
        "accuracy",
        validation="test",
    ),
)
_BY_NAME = {name: preset for preset in PRESETS for name in preset.names()}
