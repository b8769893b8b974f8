package machine

import (
	"testing"

	"platform.lab/lab/internal/machine/isolated"
)

// TestMain runs the tests in namespaces of their own.
func TestMain(m *testing.M) { isolated.Main(m) }
