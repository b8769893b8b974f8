package world

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"

	"platform.lab/lab/internal/machine"
)

// serveControl answers `lab status` on a socket in the world's folder.
func serveControl(answer answerer, l Layout, fleet *machine.Fleet) error {
	listener, err := net.Listen("unix", l.Control())
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(fleet.Status()); err != nil {
			slog.Error("status", "error", err)
		}
	})
	answer(listener, mux, "control")
	return nil
}

// Status is what the machines of a running world say of themselves, as JSON.
func Status(l Layout) ([]byte, error) {
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", l.Control())
	}}}
	response, err := client.Get("http://world/status")
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	return io.ReadAll(response.Body)
}
