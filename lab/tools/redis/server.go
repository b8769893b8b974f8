package main

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/alicebob/miniredis/v2/server"
)

// settings are those lines of a configuration that the stand-in honours, by their first word; the last one of a name counts.
// Others, such as when to save, have no meaning here.
type settings map[string][]string

// read takes the lines of a configuration file, and those on the command line, where they begin with two dashes.
func read(arguments []string) (settings, error) {
	found := settings{}

	if len(arguments) > 0 && !strings.HasPrefix(arguments[0], "--") {
		file, err := os.Open(arguments[0])
		if err != nil {
			return nil, err
		}
		defer file.Close()

		for lines := bufio.NewScanner(file); lines.Scan(); {
			found.add(strings.Fields(lines.Text()))
		}

		arguments = arguments[1:]
	}

	var line []string

	for _, argument := range arguments {
		if name, begins := strings.CutPrefix(argument, "--"); begins {
			found.add(line)
			line = strings.Fields(name)
		} else {
			line = append(line, argument)
		}
	}

	found.add(line)

	return found, nil
}

func (s settings) add(words []string) {
	if len(words) > 1 && !strings.HasPrefix(words[0], "#") {
		s[strings.ToLower(words[0])] = words[1:]
	}
}

// first is a setting's value without quotes.
func (s settings) first(name, otherwise string) string {
	if values := s[name]; len(values) > 0 {
		return strings.Trim(values[0], `"`)
	}

	return otherwise
}

// serve is redis-server: a master that keeps everything in memory.
func serve(ctx context.Context, arguments []string, log *slog.Logger) error {
	configured, err := read(arguments)
	if err != nil {
		return err
	}

	redis := miniredis.NewMiniRedis()
	redis.ClockTTL(true)

	if password := configured.first("requirepass", ""); password != "" {
		redis.RequireAuth(password)
	}

	address := net.JoinHostPort("", configured.first("port", "6379"))
	if err := redis.StartAddr(address); err != nil {
		return fmt.Errorf("listen on %s: %w", address, err)
	}
	defer redis.Close()

	log.Info("Ready to accept connections (a stand-in, without replication)", "address", address)
	<-ctx.Done()

	return nil
}

// watch is redis-sentinel: it answers who the master is, by the rule that the stand-in for HAProxy follows too: the first of
// the servers that answers.
func watch(ctx context.Context, arguments []string, log *slog.Logger) error {
	configured, err := read(arguments)
	if err != nil {
		return err
	}

	// sentinel monitor GROUP HOST PORT QUORUM
	monitored := configured["sentinel"]
	if len(monitored) < 4 || monitored[0] != "monitor" {
		return fmt.Errorf("%w: no `sentinel monitor GROUP HOST PORT QUORUM` in %v", errUsage, arguments)
	}

	address := net.JoinHostPort("", configured.first("port", "26379"))

	sentinel, err := server.NewServer(address)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", address, err)
	}
	defer sentinel.Close()

	ping := func(c *server.Peer, _ string, _ []string) { c.WriteInline("PONG") }
	tell := func(c *server.Peer, _ string, words []string) {
		if len(words) != 2 || !strings.EqualFold(words[0], "get-master-addr-by-name") || words[1] != monitored[1] {
			c.WriteError("ERR this stand-in knows SENTINEL GET-MASTER-ADDR-BY-NAME " + monitored[1])

			return
		}

		host, _, _ := net.SplitHostPort(firstThatAnswers(siblings(monitored[2], monitored[3])))
		if host == "" {
			c.WriteNull()

			return
		}

		c.WriteLen(2)
		c.WriteBulk(host)
		c.WriteBulk(monitored[3])
	}

	for name, command := range map[string]server.Cmd{"PING": ping, "SENTINEL": tell} {
		if err := sentinel.Register(name, command); err != nil {
			return err
		}
	}

	log.Info("Sentinel runs (a stand-in: no votes)", "address", address, "group", monitored[1])
	<-ctx.Done()

	return nil
}

// mostReplicas is more than a chart of a small platform asks for.
const mostReplicas = 9

// siblings are the servers whose Services' names end in a number, as the monitored one's does.
func siblings(host, port string) []string {
	base := strings.TrimRight(host, "0123456789")
	if base == host {
		return []string{net.JoinHostPort(host, port)}
	}

	var all []string

	for number := range mostReplicas {
		name := base + strconv.Itoa(number)
		if _, err := net.LookupHost(name); err != nil {
			break
		}

		all = append(all, net.JoinHostPort(name, port))
	}

	return all
}

// firstThatAnswers is "" when none does.
func firstThatAnswers(servers []string) string {
	for _, one := range servers {
		if answers(one, os.Getenv("AUTH")) == nil {
			return one
		}
	}

	return ""
}

// askTime is what a server has for an answer.
const askTime = time.Second

// answers says whether a server takes the password and is there.
func answers(address, password string) error {
	conn, err := net.DialTimeout("tcp", address, askTime)
	if err != nil {
		return err
	}
	defer conn.Close()

	if err := conn.SetDeadline(time.Now().Add(askTime)); err != nil {
		return err
	}

	client := newClient(conn)

	if password != "" {
		if _, err := client.call("AUTH", password); err != nil {
			return err
		}
	}

	_, err = client.call("PING")

	return err
}
