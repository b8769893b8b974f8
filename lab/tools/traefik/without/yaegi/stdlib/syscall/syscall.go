// Package syscall has no symbols: see package interp.
package syscall

import "reflect"

// Symbols are none.
var Symbols map[string]map[string]reflect.Value
