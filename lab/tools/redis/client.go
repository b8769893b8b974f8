package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// client speaks to a server in Redis' protocol (RESP2).
type client struct {
	conn  io.ReadWriter
	lines *bufio.Reader
}

func newClient(conn io.ReadWriter) *client { return &client{conn, bufio.NewReader(conn)} }

// call gives the lines of an answer.
func (c *client) call(words ...string) ([]string, error) {
	var request strings.Builder

	fmt.Fprintf(&request, "*%d\r\n", len(words))

	for _, word := range words {
		fmt.Fprintf(&request, "$%d\r\n%s\r\n", len(word), word)
	}

	if _, err := io.WriteString(c.conn, request.String()); err != nil {
		return nil, err
	}

	return c.answer()
}

func (c *client) answer() ([]string, error) {
	line, err := c.lines.ReadString('\n')
	if err != nil {
		return nil, err
	}

	line = strings.TrimRight(line, "\r\n")
	if line == "" {
		return nil, errors.New("an empty answer")
	}

	kind, rest := line[0], line[1:]

	switch kind {
	case '-':
		return nil, errors.New(rest)
	case '$':
		return c.bulk(rest)
	case '*':
		number, err := strconv.Atoi(rest)
		if err != nil {
			return nil, err
		}

		var all []string

		for range number {
			one, err := c.answer()
			if err != nil {
				return nil, err
			}

			all = append(all, one...)
		}

		return all, nil
	}

	return []string{rest}, nil
}

func (c *client) bulk(length string) ([]string, error) {
	bytes, err := strconv.Atoi(length)
	if err != nil {
		return nil, err
	}

	if bytes < 0 {
		return []string{""}, nil
	}

	text := make([]byte, bytes+len("\r\n"))
	if _, err := io.ReadFull(c.lines, text); err != nil {
		return nil, err
	}

	return []string{string(text[:bytes])}, nil
}

// ask is redis-cli: one command, its answer on lines.
func ask(arguments []string, out io.Writer) error {
	flags := flag.NewFlagSet("redis-cli", flag.ContinueOnError)
	host := flags.String("h", "127.0.0.1", "host")
	port := flags.String("p", "6379", "port")
	password := flags.String("a", "", "password")
	flags.Bool("no-auth-warning", false, "nothing is warned of here")
	flags.Bool("raw", false, "answers are raw here")

	if err := flags.Parse(arguments); err != nil {
		return err
	}

	conn, err := net.DialTimeout("tcp", net.JoinHostPort(*host, *port), askTime)
	if err != nil {
		return fmt.Errorf("could not connect to Redis at %s:%s: %w", *host, *port, err)
	}
	defer conn.Close()

	if err := conn.SetDeadline(time.Now().Add(askTime)); err != nil {
		return err
	}

	asked := newClient(conn)

	if *password != "" {
		if _, err := asked.call("AUTH", *password); err != nil {
			return err
		}
	}

	lines, err := asked.call(flags.Args()...)
	if err != nil {
		return err
	}

	for _, line := range lines {
		fmt.Fprintln(out, line)
	}

	return nil
}
