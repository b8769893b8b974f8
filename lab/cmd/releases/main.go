// Command releases fetches the programs of the lab that their vendors publish ready-made, as LAB_BUILD asks for. It is a
// command of its own, without the lab's libraries, so that the files come while the lab is compiled.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"time"

	"platform.lab/lab/internal/programs"
	"platform.lab/lab/internal/progress"
	"platform.lab/lab/internal/releases"
)

// patience is how long a server may send nothing: longer than a proxy takes that scans a file first.
const patience = time.Minute

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx)

	cancel()

	if err != nil {
		fmt.Fprintln(os.Stderr, "releases:", err)
		os.Exit(1)
	}
}

// command is what both commands need.
type command struct {
	builder *programs.Builder
	fetcher *releases.Fetcher
	lock    string // its file
}

func run(ctx context.Context) error {
	project := flag.String("project", ".", "folder of Pulumi.yaml")
	lock := flag.Bool("lock", false, "write the digests of all releases down, and fetch none")

	var chosen programs.Selection

	// The words are those of `lab build`, which refuses others.
	word := os.Getenv("LAB_PROGRAMS")
	flag.BoolVar(&chosen.Pods, "pods", word == "" || word == "real", "also the programs that pods run as processes")
	flag.BoolVar(&chosen.Upgrades, "upgrades", false, "also the Kubernetes releases that a cluster is upgraded to")
	flag.BoolVar(&chosen.Omni, "omni", false, "also omnictl")
	flag.BoolVar(&chosen.Watching, "watching", false, "also the programs that watch the platform")
	flag.Parse()

	c, err := newCommand(*project)
	if err != nil {
		return err
	}

	if *lock {
		return c.writeLock(ctx)
	}

	return c.fetch(ctx, chosen)
}

func newCommand(project string) (*command, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}

	project, err = filepath.Abs(project)
	if err != nil {
		return nil, err
	}

	bin := filepath.Dir(self)

	source, err := programs.Source(bin, os.Getenv("LAB_BUILD"))
	if err != nil {
		return nil, err
	}

	mirror := os.Getenv(releases.MirrorVariable)
	if err := releases.CheckMirror(mirror); err != nil {
		return nil, err
	}

	compiler := os.Getenv("GO")
	if compiler == "" {
		compiler = "go"
	}

	display := progress.New(os.Stderr)

	return &command{
		builder: &programs.Builder{Lab: filepath.Join(project, "lab"), Bin: bin, Go: compiler, Source: source, Display: display},
		fetcher: &releases.Fetcher{Bin: bin, Mirror: mirror, Patience: patience, Step: display.Step, Say: display.Line},
		lock:    filepath.Join(project, releases.LockFile),
	}, nil
}

// fetch brings what is missing. With Auto, what its vendor does not give is left to be compiled; a digest that is not the
// expected one is an error always.
func (c *command) fetch(ctx context.Context, chosen programs.Selection) error {
	source, say := c.builder.Source, c.fetcher.Say
	if source == programs.Compiled {
		return nil
	}

	if !slices.Contains(programs.Architectures(), runtime.GOARCH) {
		if source == programs.Auto {
			say("programs are compiled: not every vendor publishes for the processor %s", runtime.GOARCH)

			return nil
		}

		return fmt.Errorf("LAB_BUILD=%s: not every vendor publishes for the processor %s; LAB_BUILD=%s compiles", source, runtime.GOARCH, programs.Compiled)
	}

	done, err := releases.Alone(c.builder.Bin)
	if err != nil {
		return err
	}
	defer done()

	wanted, err := c.missing(ctx, chosen)
	if err != nil {
		return err
	}

	failed := c.fetcher.Fetch(ctx, wanted)

	var problems []error

	for _, name := range slices.Sorted(maps.Keys(failed)) {
		if err := failed[name]; source == programs.Auto && errors.Is(err, releases.ErrUnavailable) && ctx.Err() == nil {
			say("%s is compiled: %v", name, err)
		} else {
			problems = append(problems, err)
		}
	}

	if len(problems) > 0 {
		return fmt.Errorf("%w\nWhat was fetched is kept: the same command goes on from here. HTTPS_PROXY names a proxy, %s a mirror; "+
			"LAB_BUILD=%s compiles all programs, which takes a quarter of an hour", errors.Join(problems...), releases.MirrorVariable, programs.Compiled)
	}

	return programs.KeepSource(c.builder.Bin, source)
}

// missing are the releases to fetch: those that are not there, and those whose digest the lock does not have.
func (c *command) missing(ctx context.Context, chosen programs.Selection) ([]releases.Wanted, error) {
	lock, err := releases.ReadLock(c.lock)
	if err != nil {
		return nil, err
	}

	c.fetcher.Lock = lock

	all, err := programs.Selected(c.builder.Lab, chosen)
	if err != nil {
		return nil, err
	}

	for _, p := range all {
		if address, digest, fetched := programs.Fetched(c.builder.Bin, p.Name); fetched && lock != nil && lock[address] != digest {
			c.fetcher.Say("%s is fetched again: %s has another digest for it, or none", p.Name, releases.LockFile)

			if err := programs.Distrust(c.builder.Bin, p.Name); err != nil {
				return nil, err
			}
		}
	}

	list, versions, err := c.builder.ToFetch(ctx, all)
	if err != nil {
		return nil, err
	}

	wanted := make([]releases.Wanted, len(list))
	for i, p := range list {
		wanted[i] = releases.Wanted{Name: p.Name, Version: versions[i], Release: p.Release.Of(versions[i], runtime.GOARCH)}
	}

	return wanted, nil
}

// writeLock writes down what the vendors' files say today, for all programs and processors.
func (c *command) writeLock(ctx context.Context) error {
	all, err := c.builder.AllReleases(ctx)
	if err != nil {
		return err
	}

	lock, err := c.fetcher.LockOf(ctx, all)
	if err != nil {
		return fmt.Errorf("%w\nNothing is written", err)
	}

	if err := lock.Write(c.lock); err != nil {
		return err
	}

	c.fetcher.Say("%s has the digests of %d files; look at what has changed, and commit it", releases.LockFile, len(lock))

	return nil
}
