"""What is written as YAML is the same text with libyaml and without it."""

from __future__ import annotations

import yaml
from hypothesis import given
from hypothesis import strategies as st

from components.talos.configuration import defaults, documents
from components.talos.inputs import TalosInputs
from config import parse, plain_yaml
from tests.stack_texts import TRICKY
from tests.unit.recorder import everything

scalars = (
    st.sampled_from([*TRICKY, "a b " * 40, "a: b", "- a", "\tä\n"]) | st.integers() | st.none()
)
trees = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(TRICKY), inner),
    max_leaves=10,
)


def in_python(document: object) -> str:
    return yaml.safe_dump(document, sort_keys=False)


def test_a_machines_documents_are_written_as_pyyaml_itself_writes_them() -> None:
    settings = parse(everything())
    inputs = TalosInputs.of(settings)
    made = [
        one for each in settings.machines for one in (*defaults(each), *documents(inputs, each))
    ]
    assert made
    assert [plain_yaml.written(one) for one in made] == [in_python(one) for one in made]


@given(st.dictionaries(st.sampled_from(TRICKY), trees))
def test_any_document_means_the_same_to_a_reader(document: dict[str, object]) -> None:
    assert yaml.safe_load(plain_yaml.written(document)) == document
