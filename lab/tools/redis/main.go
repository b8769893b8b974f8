// Command redis is the lab's stand-in for what the chart of Argo CD runs beside it: redis-server and redis-sentinel over
// miniredis, redis-cli, haproxy and redis_exporter, each by its name. It keeps a cache in memory, and nothing else: a replica
// gets no copy of what the master has, so a new master begins empty, which Argo CD takes as a cold cache.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

var (
	errUsage   = errors.New("wrong arguments for this stand-in")
	errUnknown = errors.New("this stand-in is redis-server, redis-sentinel, redis-cli, haproxy and redis_exporter")
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()

	if err := run(ctx, filepath.Base(os.Args[0]), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, name string, arguments []string) error {
	log := slog.New(slog.NewTextHandler(os.Stdout, nil))

	switch name {
	case "redis-server":
		return serve(ctx, arguments, log)
	case "redis-sentinel":
		return watch(ctx, arguments, log)
	case "redis-cli":
		return ask(arguments, os.Stdout)
	case "haproxy":
		return balance(ctx, arguments, log)
	case "redis_exporter":
		return export(ctx, log)
	}

	return errUnknown
}
