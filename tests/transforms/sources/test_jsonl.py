import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.rejects import Reason, Reject
from transforms.sources import BlankLine, ReadOptions, Row, columns_of, read_rows

PLAIN = ReadOptions()
ALL = ReadOptions(id_column="id", keep_columns=("k",))


def read(piece, options: ReadOptions = PLAIN) -> list:
    return list(read_rows(piece, options))


def one(write, line: str | bytes, options: ReadOptions = PLAIN) -> Row | Reject | BlankLine:
    """What the line becomes, between two good rows that must come out whatever it is."""
    good = b'{"text": "good", "id": "g"}\n'
    found = read(write("a.jsonl", good + (line.encode() if isinstance(line, str) else line) + b"\n" + good), options)
    assert [r.text for r in (found[0], found[2])] == ["good", "good"] and len(found) == 3
    assert found[1].offset == len(good)
    return found[1]


@pytest.mark.parametrize(
    ("line", "reason", "error"),
    [
        (b'{"text": "\xff"}', Reason.INVALID_UTF8, "no UTF-8 at byte 10 of the line: invalid start byte"),
        (r'{"text": "a\ud800"}', Reason.LONE_SURROGATE, "field 'text' has a lone surrogate at 1"),
        ('{"text": "a', Reason.BROKEN_JSON, "Unterminated string starting at: line 1 column 10 (char 9)"),
        ('{"text": "a"} x', Reason.BROKEN_JSON, "Extra data: line 1 column 15 (char 14)"),
        ('{"text": "a\0"}', Reason.BROKEN_JSON, "Invalid control character at: line 1 column 12 (char 11)"),
        ('["text"]', Reason.BROKEN_JSON, "expected an object on the line, got list"),
        ("null", Reason.BROKEN_JSON, "expected an object on the line, got NoneType"),
        ("[" * 100_000, Reason.BROKEN_JSON, "nested too deeply"),
        ('{"txt": "a", "b": 1}', Reason.MISSING_FIELD, "no field 'text'; there are 'txt', 'b'"),
        ("{}", Reason.MISSING_FIELD, "no field 'text'; there are none"),
        ('{"text": null}', Reason.NULL_TEXT, "field 'text' is null"),
        ('{"text": ""}', Reason.BLANK_TEXT, "field 'text' is blank"),
        (r'{"text": " \n\u00a0"}', Reason.BLANK_TEXT, "field 'text' is blank"),
        ('{"text": 5}', Reason.WRONG_TYPE, "field 'text' should be a string, is int"),
        ('{"text": ["a"]}', Reason.WRONG_TYPE, "field 'text' should be a string, is list"),
    ],
)
def test_a_bad_line_is_rejected_with_its_reason_and_the_rest_goes_on(write, line, reason, error) -> None:
    raw = line if isinstance(line, bytes) else line.encode()
    found = one(write, line)
    assert (found.reason, found.error, found.raw) == (reason, error, raw[:1024])


@pytest.mark.parametrize(
    ("id", "reason", "error"),
    [
        ("null", Reason.MISSING_ID, "id field 'id' is missing or null"),
        ('" "', Reason.MISSING_ID, "id field 'id' is blank"),
        ("true", Reason.WRONG_TYPE, "id field 'id' should be a string or an integer, is bool"),
        ("1.5", Reason.WRONG_TYPE, "id field 'id' should be a string or an integer, is float"),
        (r'"\udfff"', Reason.LONE_SURROGATE, "field 'id' has a lone surrogate at 0"),
    ],
)
def test_a_bad_id_is_rejected(write, id: str, reason: Reason, error: str) -> None:
    found = one(write, f'{{"text": "a", "id": {id}}}', ALL)
    assert (found.reason, found.error) == (reason, error)


def test_a_missing_id_is_rejected(write) -> None:
    assert one(write, '{"text": "a"}', ALL).reason == Reason.MISSING_ID


@pytest.mark.parametrize(
    ("id", "expected"),
    [('"x y"', "x y"), ("7", "7"), ("-0", "0"), ("123456789012345678901234", "123456789012345678901234")],
)
def test_ids_are_strings_and_integers_of_any_length(write, id: str, expected: str) -> None:
    assert one(write, f'{{"text": "a", "id": {id}}}', ALL).id == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ('"é \\n"', "é \n"),
        ("null", None),
        ("12", "12"),
        ("true", "true"),
        ("false", "false"),
        ("0", "0"),
        ("-0", "-0"),
        ("-0.0", "-0.0"),
        ("1.10", "1.10"),
        ("1e400", "1e400"),
        ("1E+2", "1E+2"),
        ("18446744073709551616", "18446744073709551616"),
        ("9" * 5000, "9" * 5000),
        ("NaN", "NaN"),
        ('{"b": [1.0,\t"é"], "a": 12345678901234567890123 }', '{"b": [1.0,\t"é"], "a": 12345678901234567890123 }'),
        (r'["\u00e9", "\ud800", "\"}"]', r'["\u00e9", "\ud800", "\"}"]'),
        ('{"k": {"k": 1.0}}', '{"k": {"k": 1.0}}'),
        ('1, "k": 2.0', "2.0"),
        ('1.0, "o": {"k": 2.0}', "1.0"),
        ('1.0, "o": "\\"k\\": 2.0"', "1.0"),
        ('1.0, "a\\"k": 2.0', "1.0"),
        ('1.0, "o": "k"', "1.0"),
        (' 1.50 , "k2": 1.5', "1.50"),
        ('2.0, "k": "last"', "last"),
        ('"first", "\\u006b" : [ ] ', "[ ]"),
    ],
)
def test_a_kept_value_is_its_string_or_the_json_that_stands_in_the_file(
    write, value: str, expected: str | None
) -> None:
    assert one(write, f'{{"text": "a", "id": 1, "k": {value}}}', ALL).kept == (expected,)
    assert one(write, '{"text": "a", "id": 1}', ALL).kept == (None,)


@pytest.mark.parametrize("name", ["a/b", 'a"b', "a\\b", "é", "a.b", " ", "a\nb"])
@pytest.mark.parametrize("ascii", [True, False])
def test_a_field_of_any_name_is_kept_as_it_is_spelt(write, name: str, ascii: bool) -> None:
    key = json.dumps(name, ensure_ascii=ascii)
    for spelt in (key, key.replace("/", "\\/")):
        line = f'{{"text": "a", "o": {{{key}: 3.0}}, {spelt}: 1.10, "p": {{{key}: 2.0}}}}'
        assert one(write, line, ReadOptions(keep_columns=(name,))).kept == ("1.10",)
        assert one(write, f'{{"text": "a", {spelt}: 1.10}}', ReadOptions(keep_columns=(name,))).kept == ("1.10",)


def test_an_escaped_name_is_not_taken_for_a_plain_one_further_in(write) -> None:
    line = r'{"text": "a", "\u006b": 1.10, "o": {"k": 1.1}}'
    assert one(write, line, ReadOptions(keep_columns=("k",))).kept == ("1.10",)


@pytest.mark.parametrize(
    "other", ["NaN", "-Infinity", "1e999", "9" * 30, "9" * 5000, r'"\ud800"', "[" * 500 + "]" * 500]
)
def test_a_good_text_is_not_lost_for_another_field(write, other: str) -> None:
    assert one(write, f'{{"text": "a", "other": {other}}}').text == "a"
    assert one(write, f'{{"text": "a", "id": 1, "other": {other}}}', ALL)[1:] == ("a", "1", (None,))


def test_a_field_of_any_value_can_be_kept_or_is_rejected(write) -> None:
    assert one(write, '{"text": "a", "id": 1, "k": "\\ud800"}', ALL).reason == Reason.LONE_SURROGATE
    nested = one(write, '{"text": "a", "id": 1, "k": %s}' % ("[" * 1000 + "]" * 1000), ALL)
    assert isinstance(nested, Row) or (nested.reason, nested.error) == (
        Reason.BROKEN_JSON,
        "field 'k' is nested too deeply",
    )


def test_a_text_is_taken_as_it_is(write) -> None:
    assert one(write, r'{"text": " a\u0000\r\n\ud83d\ude00 "}').text == " a\0\r\n😀 "


def test_a_bom_crlf_and_a_missing_last_newline_read_as_they_should(write) -> None:
    piece = write("a.jsonl", b'\xef\xbb\xbf{"text": "a"}\r\n{"text": "b"}')
    assert read(piece) == [Row(0, "a", None, ()), Row(18, "b", None, ())]


def test_blank_lines_are_no_records(write) -> None:
    assert one(write, "") == BlankLine(28)
    assert one(write, " \t\r") == BlankLine(28)


def test_a_line_above_the_limit_is_rejected(write) -> None:
    content = b'{"text": "a"}\n{"text": "' + b"x" * 3000 + b'"}\n{"text": "b"}\n'
    found = read(write("a.jsonl", content), ReadOptions(max_record_bytes=2000))
    assert [type(r) for r in found] == [Row, Reject, Row]
    assert found[1] == Reject(
        "a.jsonl", 14, "read", Reason.TOO_LARGE, "a line of more than 2000 bytes (--max_record_bytes)", content[14:1038]
    )


def test_columns_are_the_keys_of_the_first_object(write) -> None:
    assert columns_of(write("a.jsonl", b'\n{"broken\n[1]\n{"b": NaN, "a": 1}\n{"c": 1}\n'), ReadOptions()) == ["b", "a"]
    assert columns_of(write("a.jsonl", b""), ReadOptions()) == []


strings = st.text(st.characters(exclude_categories=["Cs"]))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | strings,
    lambda inner: st.lists(inner) | st.dictionaries(strings, inner),
    max_leaves=10,
)


@given(records=st.lists(st.tuples(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), values), max_size=5))
def test_what_json_writes_comes_back(records: list, write) -> None:
    lines = [json.dumps({"text": t, "id": i, "k": v}, ensure_ascii=i % 2 == 0) for i, (t, v) in enumerate(records)]
    found = read(write("a.jsonl", "\n".join(lines).encode()), ALL)
    for i, ((text, value), item) in enumerate(zip(records, found, strict=True)):
        if not text.strip():
            assert item.reason == Reason.BLANK_TEXT
            continue
        assert item[1:3] == (text, str(i))
        spelt = json.dumps(value, ensure_ascii=i % 2 == 0)
        assert item.kept == ((value,) if value is None or isinstance(value, str) else (spelt,))
