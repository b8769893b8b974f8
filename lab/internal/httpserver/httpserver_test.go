package httpserver

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAServerEndsWithItsContextAndLeavesNoRequestBehind(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()

	var ended atomic.Bool

	// A request that follows something, such as a log, ends when its context does.
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		ended.Store(true)
	})

	served := make(chan error, 1)

	go func() { served <- Serve(ctx, listener, &http.Server{Handler: handler}, slog.New(slog.DiscardHandler)) }()

	answer, err := http.Get("http://" + listener.Addr().String())
	require.NoError(t, err)
	defer answer.Body.Close()

	cancel()

	assert.NoError(t, <-served)

	if !ended.Load() {
		t.Error("the server returned while a request was answered")
	}

	if _, err := io.ReadAll(answer.Body); err != nil {
		t.Error(err)
	}

	if _, err := net.Dial("tcp", listener.Addr().String()); err == nil {
		t.Error("the port is still open")
	}
}

func TestAServerSaysWhyItCouldNotServe(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)

	listener.Close()

	if err := Serve(t.Context(), listener, &http.Server{}, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("no error")
	}
}
