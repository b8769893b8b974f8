package releases

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"
)

// MirrorVariable names the address of a mirror.
const MirrorVariable = "LAB_RELEASES_MIRROR"

// CheckMirror refuses addresses that a file could be changed on the way from.
func CheckMirror(mirror string) error {
	if mirror == "" {
		return nil
	}

	address, err := url.Parse(mirror)
	if err != nil || address.Host == "" || address.Scheme != "https" && !onLoopback(address) {
		return fmt.Errorf("%s is not the https address of a mirror, such as https://mirror.example.com/releases: "+
			"below it lie the vendors' files by host and path, as in dl.k8s.io/release/v1.34.1/bin/linux/amd64/kubectl", MirrorVariable)
	}

	return nil
}

// onLoopback is true for http addresses of this computer.
func onLoopback(address *url.URL) bool {
	ip, err := netip.ParseAddr(address.Hostname())

	return address.Scheme == "http" && err == nil && ip.IsLoopback()
}

// client asks by the proxy of HTTPS_PROXY and NO_PROXY, and follows to no address that is not https.
var client = &http.Client{
	Transport: &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		TLSHandshakeTimeout: 10 * time.Second,
		ForceAttemptHTTP2:   true,
		MaxIdleConnsPerHost: atOnce,
		// A file's digest is that of the file, not of what a server packs it into.
		DisableCompression: true,
	},
	CheckRedirect: func(next *http.Request, before []*http.Request) error {
		const most = 10
		if len(before) > most {
			return errors.New("too many redirects")
		}

		if next.URL.Scheme != "https" && !onLoopback(next.URL) {
			return fmt.Errorf("it leads to %s, which is not https", next.URL.Redacted())
		}

		return nil
	},
}

var errSilent = errors.New("the server sent nothing more")

// get writes a vendor's file and gives its size in bytes.
func (f *Fetcher) get(ctx context.Context, address string, limit int64, to io.Writer) (uint64, error) {
	place, err := url.Parse(f.place(address))
	if err != nil {
		return 0, err
	}

	if err := f.down.reason(place.Host); err != nil {
		return 0, err
	}

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)

	silence := time.AfterFunc(f.Patience, func() { cancel(fmt.Errorf("%w for %s", errSilent, f.Patience)) })
	defer silence.Stop()

	request, err := http.NewRequestWithContext(ctx, http.MethodGet, place.String(), http.NoBody)
	if err != nil {
		return 0, err
	}

	response, err := client.Do(request)
	if err != nil {
		refused := ctx.Err() == nil
		err = fmt.Errorf("%s: %w: %w", place.Redacted(), ErrUnavailable, causeOf(ctx, err))

		if refused {
			f.down.remember(place.Host, err)
		}

		return 0, err
	}
	defer response.Body.Close()

	if response.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("%s: %w: expected the file, got %q", place.Redacted(), ErrUnavailable, response.Status)
	}

	size, err := io.Copy(to, io.LimitReader(&heard{response.Body, func() { silence.Reset(f.Patience) }}, limit+1))

	switch {
	case err != nil:
		return 0, fmt.Errorf("%s: %w: it ended after %d of %d bytes: %w", place.Redacted(), ErrUnavailable, size, response.ContentLength, causeOf(ctx, err))
	case size > limit:
		return 0, fmt.Errorf("%s: more than %d bytes, which no file of this kind has", place.Redacted(), limit)
	default:
		return uint64(size), nil //nolint:gosec // a size
	}
}

// place is where a vendor's file is asked for.
func (f *Fetcher) place(address string) string {
	if f.Mirror == "" {
		return address
	}

	return strings.TrimRight(f.Mirror, "/") + "/" + strings.TrimPrefix(address, "https://")
}

// causeOf is why a request ended: what ended its context says more than that it was ended.
func causeOf(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}

	var asked *url.Error
	if errors.As(err, &asked) {
		return asked.Err // the address is told already
	}

	return err
}

// heard tells of each part that arrives.
type heard struct {
	io.Reader
	tell func()
}

func (h *heard) Read(p []byte) (int, error) {
	n, err := h.Reader.Read(p)
	h.tell()

	return n, err
}

// unreachable remembers hosts that could not be asked: one try a host is enough where there is no internet.
type unreachable struct {
	mutex sync.Mutex
	hosts map[string]error
}

func (u *unreachable) reason(host string) error {
	u.mutex.Lock()
	defer u.mutex.Unlock()

	return u.hosts[host]
}

func (u *unreachable) remember(host string, err error) {
	u.mutex.Lock()
	defer u.mutex.Unlock()

	if u.hosts == nil {
		u.hosts = map[string]error{}
	}

	u.hosts[host] = err
}
