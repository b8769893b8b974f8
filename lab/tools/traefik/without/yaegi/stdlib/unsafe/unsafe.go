// Package unsafe has no symbols: see package interp.
package unsafe

import "reflect"

// Symbols are none.
var Symbols map[string]map[string]reflect.Value
