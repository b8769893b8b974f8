"""Stack files that nobody would write, for tests that compare their readers."""

from __future__ import annotations

from hypothesis import strategies as st

TRICKY = (
    *(
        "017",
        "08",
        "0o17",
        "0o-7",
        "-0o7",
        "0x1F",
        "-0x1f",
        "0b11",
        "0b-1",
        "0b2",
        "0xg",
        "1_000",
        "_1",
        "1_",
    ),
    *(
        "+5",
        "-0",
        "1e3",
        "1E-3",
        "1e999",
        ".5",
        ".5_0",
        "5.",
        "1.50",
        "4.0",
        "-.5e1",
        ".",
        "-",
        "+",
        "1.2.3",
    ),
    *(
        ".nan",
        ".NaN",
        ".Nan",
        ".inf",
        "-.Inf",
        "+.INF",
        "nan",
        "inf",
        "Infinity",
        "1:30",
        "12:30:10",
        "1,000",
    ),
    *(
        "yes",
        "no",
        "on",
        "off",
        "y",
        "n",
        "true",
        "True",
        "tRUE",
        "FALSE",
        "~",
        "null",
        "Null",
        "nULL",
        "''",
    ),
    *(
        "2026-11-28",
        "2026-1-2",
        "2024-13-45",
        "0000-01-01",
        "0001-01-01",
        "9999-12-31",
        "02026-01-01",
    ),
    *(
        "2026-11-28T10:00:00Z",
        "2026-11-28 10:00:00",
        "2026-11-28t1:2:3.5-02:00",
        "2026-11-28T",
        "2026-11-28 1",
    ),
    *(
        "<<",
        "=",
        "'017'",
        '"1e3"',
        "!!str 017",
        "!!int 5",
        "!!int '5'",
        "!!bool true",
        "!!float 1",
        "! 5",
    ),
    *(
        "9223372036854775807",
        "9223372036854775808",
        "18446744073709551616",
        "1" * 30,
        "0.1",
        "1e-7",
    ),
    *(
        "'a''b'",
        r'"\t\n\x41\u00e9"',
        '"a\\\n  b"',
        "|\n    a\n    b\n",
        ">-\n    a\n    b\n",
        "a  b",
        "a #b",
        "a#b",
    ),
)
"""Scalars as they stand in a file, of which readers make different things."""

scalars = st.one_of(
    st.sampled_from(TRICKY),
    st.text("0123456789+-._eExXobBnNaAfFiItTyY:~", min_size=1, max_size=8),
    st.integers().map(str),
    st.floats().map(repr),
)
in_flow = st.one_of(
    st.sampled_from([one for one in TRICKY if not set(one) & set("\n#,")]),
    st.text("0123456789+-._eExXobn", min_size=1, max_size=6),
)
keys = st.one_of(
    st.sampled_from(["a", "b", "'1'", "1", "true", "<<", "2026-11-28", "1e3", "~"]), in_flow
)


def _mapping(pairs: list[tuple[str, str]]) -> str:
    return "{" + ", ".join(f"{key}: {value}" for key, value in pairs) + "}"


flows = st.recursive(
    in_flow,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: "[" + ", ".join(items) + "]"),
        st.lists(st.tuples(keys, inner), max_size=3).map(_mapping),
        inner.map(lambda text: f"&x {text}"),
        st.just("*x"),
    ),
    max_leaves=6,
)
names = st.one_of(
    st.integers(0, 9).map(lambda number: f"platform:k{number}"),
    st.sampled_from(
        ["k1", "platform:config:k1", "other:k", "'platform:k2'", "platform:site", "a:b:c:d"]
    ),
)
entries = st.tuples(names, st.one_of(scalars, flows))
noise = st.text(st.sampled_from(" \n-:{}[]&*!|>'\"%#,?abx01\t"), min_size=1, max_size=12)


def _file(parts: tuple[list[tuple[str, str]], str]) -> str:
    lines, tail = parts
    return "config:\n" + "".join(f"  {name}: {value}\n" for name, value in lines) + tail


files = st.tuples(
    st.lists(entries, max_size=6), st.one_of(st.just(""), st.just("---\n"), noise)
).map(_file)
"""Texts of stack files, most of them YAML."""


def of_scalars(values: list[str]) -> str:
    """Write a stack file with each scalar under a key of its own."""
    return "config:\n" + "".join(
        f"  platform:k{number}: [{text}]\n" for number, text in enumerate(values)
    )
