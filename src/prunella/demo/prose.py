"""English paragraphs out of docstrings: what remains when code, lists of parameters and markup go.

Docstrings come in four habits (plain, reStructuredText, numpydoc, Google). One reading serves all:
cut the docstring into chunks of lines, join each chunk into one line, undo the markup, and keep the
chunk only when it reads like English.
"""

import itertools
import re
from collections.abc import Iterator, Sequence

MASK = "X"
"""What stands for a piece of code in :func:`masked` text; English writes it so too."""

_ADMONITION = re.compile(r"^\s*\.\. (note|warning|tip|seealso|caution|important|attention)::\s*")
_BULLET = re.compile(r"^\s*(?:[-*+•]|\(?[0-9a-z]{1,2}[.)])\s+")
_FIELD = re.compile(r"^\s*:[a-z]+(?: [^:]*)?:\s*")
_PARAMETER = re.compile(r"^\s*[\w*`, ./]+\s:\s*\S?")
_GOOGLE_PARAMETER = re.compile(r"^\s*[`*]*\w+[`*]*(?: \([^()]*(?:\([^()]*\))?[^()]*\))?:\s+(?=\S)")
_SKIPPED_SECTION = re.compile(
    r"^\s*(examples?|usage|references|see also|methods|attributes|doctests?)\s*(:|::)?\s*$", re.I
)

_ROLE = re.compile(r":[a-zA-Z:+-]+:`[~!]?([^`<]*?)\s*(?:<[^`]*>)?`")
_LINK = re.compile(r"`([^`<]+?)\s*<[^`>]*>`_{0,2}")
_LITERAL = re.compile(r"`{1,3}([^`]+)`{1,3}_{0,2}")
_EMPHASIS = re.compile(r"(?<!\w)(\*{1,2})(?=\S)([^*]{1,80}?)(?<=\S)\1(?!\w)")
_FOOTNOTE = re.compile(r"\s?\[(?:\d+|#?\w{1,12}\d*)\]_")
_QUOTED_CODE = re.compile(r"(?<![\w`])[\"']([\w.]*[_.()][\w.()]*)[\"'](?![\w`])")
_BACKTICKED = re.compile(r"`([^`]*)`")
_IDENTIFIER = re.compile(
    r"(?<![\w.])(?:"
    r"\w*\w_\w+|_+\w+|\w+\(\S*\)|[A-Za-z_]\w*(?:\.\w{2,})+|[a-z]+[A-Z]\w*|[A-Z][a-z]+[A-Z]\w*"
    r")(?:\(\))?"
)
_HEADING_WORDS = 6  # "ndarray of shape (n, m)" above what is returned
_WORD = re.compile(r"^[\"'(\[]*[A-Za-z]+(?:['’/-][A-Za-z]+)*[\"')\],.;:!?]*$")
_COMMON = frozenset(
    "a an and any are as at be been but by can do does each for from had has have if in into is "
    "it its may more most must no not of on one only or other should so some such than that the "
    "their them then there these they this to up used using was we when where which while will "
    "with you".split()
)


def paragraphs(docstring: str) -> list[str]:
    """The English paragraphs of a docstring, one line each, code kept between backticks.

    Args:
        docstring: The text as `ast.get_docstring` or `inspect.cleandoc` returns it.

    Returns:
        Paragraphs in their order. Feed each to :func:`plain` or :func:`masked`.
    """
    candidates = (paragraph(chunk) for chunk in _chunks(docstring.splitlines()))
    return [text for text in candidates if is_prose(text)]


def paragraph(lines: Sequence[str]) -> str:
    """Join lines into one; inline reStructuredText and Markdown go, literals get one backtick."""
    text = " ".join(lines)
    if "]_" in text:
        text = _FOOTNOTE.sub("", text)
    if "`" in text:
        text = _ROLE.sub(r"`\1`", text)
        text = _LINK.sub(r"\1", text)
        text = _LITERAL.sub(r"`\1`", text)
    if "'" in text or '"' in text:
        text = _QUOTED_CODE.sub(r"`\1`", text)
    if "*" in text:
        text = _EMPHASIS.sub(r"\2", text)
    return " ".join(text.replace("\\", "").split())


def plain(paragraph: str) -> str:
    """The paragraph as people read it: backticks gone, the names in them kept."""
    return _BACKTICKED.sub(r"\1", paragraph)


def masked(paragraph: str) -> str:
    """The paragraph with every piece of code, marked or recognisable, replaced by `MASK`."""
    return _IDENTIFIER.sub(MASK, _BACKTICKED.sub(MASK, paragraph))


def is_prose(text: str) -> bool:
    """Whether a line reads like English: sentence ending, mostly words, enough common words."""
    tokens = text.split()
    if len(tokens) < 6 or text[-1] not in ".?!:)\"'" or not text.lstrip("\"'(`")[:1].isalpha():
        return False
    common = sum(token.lower() in _COMMON for token in tokens)
    if common < 0.15 * len(tokens) or ">>>" in text:
        return False
    return sum(map(bool, map(_WORD.match, tokens))) >= 0.75 * len(tokens)


def _chunks(lines: list[str]) -> Iterator[list[str]]:
    """Cut lines where a blank line, a list item, a parameter or a change of indentation says so."""
    chunk: list[str] = []
    for line in _without_code(lines):
        opening = _opening(line)
        if chunk and (not line.strip() or opening is not None or _breaks(chunk[-1], line)):
            yield chunk
            chunk = []
        if line.strip():
            text = line if opening is None else " " * opening + line[opening:]
            if text.strip():
                chunk.append(text)
    if chunk:
        yield chunk


def _opening(line: str) -> int | None:
    """Length of the marker that starts an item (bullet, field, parameter), None without one."""
    match = _BULLET.match(line)
    if match is None and ":" in line:
        match = _FIELD.match(line) or _GOOGLE_PARAMETER.match(line)
    return match.end() if match else None


def _breaks(before: str, line: str) -> bool:
    """Whether a line starts something new because of its indentation."""
    indent_before, indent = (len(text) - len(text.lstrip()) for text in (before, line))
    if indent > indent_before:
        heading = indent - indent_before >= 3 and len(before.split()) <= _HEADING_WORDS
        return heading or bool(_PARAMETER.match(before)) or before.rstrip().endswith((".", ":"))
    return indent < indent_before and before.rstrip().endswith((".", ":", "?", "!"))


def _without_code(lines: list[str]) -> Iterator[str]:
    """Drop doctests, literal blocks, directives and whole sections that hold code or names."""
    skip_deeper_than: int | None = None
    section_skipped = doctest = fenced = False
    for line, following in itertools.zip_longest(lines, lines[1:], fillvalue=""):
        stripped = line.strip()
        if stripped.startswith("```"):
            fenced = not fenced
        elif not stripped and not fenced:
            doctest = False
            yield ""
        if fenced or not stripped or stripped.startswith("```"):
            continue
        indent = len(line) - len(line.lstrip())
        if skip_deeper_than is not None and indent > skip_deeper_than:
            continue
        skip_deeper_than = None
        if _is_underline(following):
            section_skipped = bool(_SKIPPED_SECTION.match(line))
            continue
        doctest = doctest or stripped.startswith((">>>", "In ["))
        if section_skipped or doctest or _is_underline(line):
            continue
        if stripped.startswith(".. ") and (admonition := _ADMONITION.match(line)):
            yield ""
            yield line[admonition.end() :]
        elif stripped.startswith(".. ") or _SKIPPED_SECTION.match(line):
            skip_deeper_than = indent
        else:
            if stripped.endswith("::"):
                skip_deeper_than = indent
                line = line.rstrip()[:-1]
            yield line


def _is_underline(line: str) -> bool:
    """Whether a line is a row of one sign, which makes a heading of the line above it."""
    signs = line.strip()
    return len(signs) > 2 and signs[0] in "-=~^*`#\"'" and not signs.strip(signs[0])
