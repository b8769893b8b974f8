package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
)

var errUsage = errors.New("podcli (a stand-in): check http URL | get URL | post URL | look-up NAME")

// client is the stand-in for podinfo's podcli. Its `check http` is podcli's; get, post and look-up are the lab's own, for tests
// that ask from inside of a pod.
func client(ctx context.Context, words []string, out io.Writer) error {
	switch {
	case len(words) == 3 && slices.Equal(words[:2], []string{"check", "http"}):
		return call(ctx, http.MethodGet, words[2], io.Discard)
	case len(words) == 2 && words[0] == "get":
		return call(ctx, http.MethodGet, words[1], out)
	case len(words) == 2 && words[0] == "post":
		return call(ctx, http.MethodPost, words[1], out)
	case len(words) == 2 && words[0] == "look-up":
		addresses, err := net.DefaultResolver.LookupHost(ctx, words[1])
		if err != nil {
			return err
		}

		fmt.Fprintln(out, strings.Join(addresses, " "))

		return nil
	}

	return errUsage
}

func call(ctx context.Context, method, url string, out io.Writer) error {
	request, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return err
	}

	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()

	if answer.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("%s: %s", url, answer.Status)
	}

	_, err = io.Copy(out, answer.Body)

	return err
}
