// Command pebble is Let's Encrypt's test server for ACME, over its packages: what cmd/pebble does, with the directory where a
// client of Let's Encrypt looks for it, and with the authority's certificate left in a file for those who trust it.
package main

import (
	"context"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/letsencrypt/pebble/v2/ca"
	"github.com/letsencrypt/pebble/v2/db"
	"github.com/letsencrypt/pebble/v2/va"
	"github.com/letsencrypt/pebble/v2/wfe"
)

const (
	headerTime = 10 * time.Second
	drainTime  = time.Second
	// authzRetry and orderRetry are the seconds after which a client asks again.
	authzRetry, orderRetry = 3, 5
	// profile is the only one: pebble takes any of several for an order that names none.
	profile = "default"
)

// settings are pebble's own, which it reads from the environment.
var settings = map[string]string{
	// It would wait up to five seconds before each look.
	"PEBBLE_VA_NOSLEEP": "1",
	// A name that was proven is not asked for again while the proof holds, as at Let's Encrypt (there 30 days, here an hour).
	"PEBBLE_AUTHZREUSE": "100",
}

type options struct {
	listen, certificate, key, directory, resolver, root, identity string
	life                                                          time.Duration
}

func main() {
	var o options

	flag.StringVar(&o.listen, "listen", "", "address and port for HTTPS")
	flag.StringVar(&o.certificate, "certificate", "", "file of the server's certificate, PEM")
	flag.StringVar(&o.key, "key", "", "file of its key, PEM")
	flag.StringVar(&o.directory, "directory", "/directory", "path of the directory")
	flag.StringVar(&o.resolver, "resolver", "", "name server, address and port, that is asked for challenges")
	flag.StringVar(&o.root, "root", "", "file that gets the authority's certificate, PEM")
	flag.StringVar(&o.identity, "identity", "letsencrypt.org", "name of the authority in CAA records")
	flag.DurationVar(&o.life, "life", 90*24*time.Hour, "life of a certificate")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()

	if err := o.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "pebble:", err)
		os.Exit(1)
	}
}

// run serves until the context ends.
func (o options) run(ctx context.Context) error {
	if flag.NArg() > 0 || o.listen == "" || o.certificate == "" || o.key == "" || o.resolver == "" || o.root == "" {
		return errors.New("--listen, --certificate, --key, --resolver and --root are needed, and nothing else")
	}

	for name, value := range settings {
		if err := os.Setenv(name, value); err != nil {
			return err
		}
	}

	logger := log.New(os.Stdout, "", log.LstdFlags|log.LUTC)
	store := db.NewMemoryStore()
	authority := ca.New(logger, store, "", "ecdsa", 0, 1, map[string]ca.Profile{
		profile: {Description: "the only one", PromoteCommonName: true, ValidityPeriod: uint64(o.life.Seconds())},
	})

	if err := o.writeRoot(authority); err != nil {
		return err
	}

	front := wfe.New(logger, store, va.New(logger, 80, 443, false, o.resolver, store), authority, []string{o.identity}, false, false, authzRetry, orderRetry)
	server := &http.Server{Addr: o.listen, Handler: o.at(front.Handler()), ReadHeaderTimeout: headerTime, ErrorLog: logger}

	context.AfterFunc(ctx, func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
		defer cancel()

		_ = server.Shutdown(ctx) // else the clients had their time
	})

	if err := server.ListenAndServeTLS(o.certificate, o.key); !errors.Is(err, http.ErrServerClosed) {
		return err
	}

	return nil
}

// at serves pebble's directory under the path that was asked for.
func (o options) at(pebble http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == o.directory {
			r.URL.Path = wfe.DirectoryPath
		}

		pebble.ServeHTTP(w, r)
	})
}

// writeRoot leaves the certificate at once and whole: who waits for the file reads it then.
func (o options) writeRoot(authority *ca.CAImpl) error {
	root := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: authority.GetRootCert(0).DER})

	if err := os.WriteFile(o.root+".part", root, 0o644); err != nil {
		return err
	}

	return os.Rename(o.root+".part", o.root)
}
