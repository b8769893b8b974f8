// Package log takes the logger that Traefik hands to its ACME client. Nothing writes to it.
package log

// Logger is where an ACME client would log.
var Logger StdLogger

// StdLogger has the methods of the standard library's logger.
type StdLogger interface {
	Fatal(args ...any)
	Fatalln(args ...any)
	Fatalf(format string, args ...any)
	Print(args ...any)
	Println(args ...any)
	Printf(format string, args ...any)
}
