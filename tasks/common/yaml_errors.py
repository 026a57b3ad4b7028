"""Says in plain words, with the line, why a text is not YAML."""

from tasks.common.text import one_line

QUOTE = "put the text between double quotes"
WORDS = {  # part of ruamel's problem -> what it means and what to do
    "mapping values are not allowed": "`: ` comes where no key can be: indent this line like the lines beside it, or "
    f"{QUOTE} if the value itself contains `: `",
    "found character that cannot start any token": "a value cannot begin like this: indent with spaces, not tabs, and "
    f"{QUOTE} if it begins with @, %, ` or the like",
    "unexpected end of stream": "the quote that opens here is never closed",
    "duplicate key": "this key is there twice: remove one of the two",
    "did not find expected ',' or '}'": "the brace { that opens before is not closed, or a comma is missing",
    "did not find expected ',' or ']'": "the bracket [ that opens before is not closed, or a comma is missing",
    "did not find expected node content": "a value or a closing bracket is missing",
    "did not find expected": "this line does not go on as the lines before it: check its indentation",
    "could not find expected ':'": "this line has no `key: value`: add the colon, or indent it under its key",
    "undefined alias": f"a value that begins with * refers to an anchor, and there is none of that name: {QUOTE}",
    "constructor for the tag": f"a value that begins with ! names a type, and this one is not known: {QUOTE}",
    "unknown escape": "\\ is special between double quotes: use single quotes",
    "found another document": "`---` begins a second document: params.yaml holds one",
}


def yaml_problem(text: str, error: Exception) -> str:
    """E.g. 'line 3, `size: 64: 32`: ...' for an `error` of ruamel.yaml about `text`."""
    problem = getattr(error, "problem", None) or str(error)
    plain = next((words for part, words in WORDS.items() if part in problem), one_line(problem, 160))
    mark = getattr(error, "problem_mark", None)
    if "unexpected end of stream" in problem:
        mark = error.context_mark
    if mark is None:
        return plain
    lines = text.splitlines()
    number = min(mark.line, len(lines) - 1)  # an end that comes too early is said of the last line
    return f"line {number + 1}, `{one_line(lines[number].strip(), 80)}`: {plain}"
