// Package httpserver runs the lab's HTTP servers until their context ends.
package httpserver

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// grace is what requests in flight get when the context has ended, which theirs have then, too.
const grace = time.Second

// Serve answers on a listener, with TLS where the server has a configuration for it. It returns when the context has
// ended and no request is answered any more, or with what ended it before. What is wrong with a client is logged as debug.
func Serve(ctx context.Context, listener net.Listener, server *http.Server, log *slog.Logger) error {
	server.ReadHeaderTimeout = 10 * time.Second
	server.ErrorLog = slog.NewLogLogger(log.Handler(), slog.LevelDebug)
	server.BaseContext = func(net.Listener) context.Context { return ctx }

	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)

		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
		defer cancel()

		if server.Shutdown(limited) != nil {
			server.Close()
		}
	})

	err := serve(server, listener)

	if !stop() {
		<-stopped
	}

	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}

	return err
}

// ServeAll answers on all addresses, each with a server of its own, until the context ends or one of them fails.
func ServeAll(ctx context.Context, servers map[string]*http.Server, log *slog.Logger) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	var problems []error

	ended := make(chan error, len(servers))
	started := 0

	for address, server := range servers {
		listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
		if err != nil {
			problems = append(problems, err)

			cancel()

			break
		}

		started++

		go func() { ended <- Serve(ctx, listener, server, log) }()
	}

	for range started {
		problems = append(problems, <-ended)

		cancel()
	}

	return errors.Join(problems...)
}

func serve(server *http.Server, listener net.Listener) error {
	if server.TLSConfig == nil {
		return server.Serve(listener)
	}

	return server.ServeTLS(listener, "", "")
}
