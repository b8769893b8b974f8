"""A URN taken apart."""

from ops.engine import urn

NODE = (
    "urn:pulumi:prod::platform::platform:vsphere:Machines$vsphere:index/vm:VirtualMachine::node01"
)


def test_a_urn_names_stack_types_and_resource() -> None:
    assert urn.stack_of(NODE) == "prod"
    assert urn.types_of(NODE) == ("platform:vsphere:Machines", "vsphere:index/vm:VirtualMachine")
    assert urn.type_of(NODE) == "vsphere:index/vm:VirtualMachine"
    assert urn.name_of(NODE) == "node01"
    assert urn.kind_and_name(NODE) == "VirtualMachine node01"


def test_a_name_may_hold_what_parts_a_urn() -> None:
    assert urn.name_of(f"{NODE}::of::it") == "node01::of::it"


def test_a_provider_is_named_with_its_id() -> None:
    assert urn.provider_of(f"{NODE}::id-of-it") == NODE
    assert urn.provider_of("") == ""
