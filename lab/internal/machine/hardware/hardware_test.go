package hardware

import "testing"

func TestTheGuestReadsTheFirstNumbersOfItsUUIDTheOtherWayRound(t *testing.T) {
	vm := VM{ID: "421f245c-7fa8-60fa-6af6-0123456789ab"}
	if got := vm.SystemUUID(); got != "5c241f42-a87f-fa60-6af6-0123456789ab" {
		t.Error(got)
	}

	if got := (VM{ID: got(vm)}).SystemUUID(); got != vm.ID {
		t.Error(got)
	}
}

func got(vm VM) string { return vm.SystemUUID() }
