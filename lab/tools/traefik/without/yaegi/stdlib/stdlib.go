// Package stdlib has no symbols: see package interp.
package stdlib

import "reflect"

// Symbols are none.
var Symbols map[string]map[string]reflect.Value
