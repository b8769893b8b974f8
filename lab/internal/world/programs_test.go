package world

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

func TestPodsAreSimulatedUnlessTheirProgramsAreAskedFor(t *testing.T) {
	if (Options{}).images() != nil || (Options{Programs: ProgramsSimulated}).images() != nil {
		t.Error("programs run that nobody asked for")
	}

	if len((Options{Programs: ProgramsReal}).images()) == 0 {
		t.Error("no program runs")
	}

	if err := CheckPrograms("some"); err == nil || !strings.Contains(err.Error(), "LAB_PROGRAMS=some") {
		t.Error(err)
	}
}

func TestAKernelThatCannotHoldPodsSimulatesThemUnlessSomebodyAskedForPrograms(t *testing.T) {
	lacks := errors.New("no queues")

	for _, c := range []struct {
		name     string
		asked    bool
		problem  error
		programs string
		refused  bool
	}{
		{"it can", false, nil, ProgramsReal, false},
		{"it cannot", false, lacks, ProgramsSimulated, false},
		{"it cannot, and they were asked for", true, lacks, ProgramsReal, true},
	} {
		var said []string

		options := Options{Programs: ProgramsReal, ProgramsAsked: c.asked}
		err := options.settlePrograms(func() error { return c.problem }, func(format string, arguments ...any) {
			said = append(said, fmt.Sprintf(format, arguments...))
		})

		if options.Programs != c.programs || (err != nil) != c.refused {
			t.Errorf("%s: %s, %v", c.name, options.Programs, err)
		}

		if told := strings.Join(said, "") == "all pods are simulated: no queues"; told != (c.programs == ProgramsSimulated) {
			t.Errorf("%s: said %q", c.name, said)
		}
	}
}

func TestAProgramThatIsNotBuiltIsNamed(t *testing.T) {
	bin, images := t.TempDir(), Options{Programs: ProgramsReal}.images()
	if err := checkImages(bin, images); err == nil || !strings.Contains(err.Error(), "`make build`") {
		t.Error(err)
	}

	names := []string{acmeProgram}
	for _, image := range images {
		names = append(names, slices.Collect(maps.Values(image.Files))...)
	}

	for _, name := range names {
		if err := os.WriteFile(filepath.Join(bin, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}

	if err := checkImages(bin, images); err != nil {
		t.Error(err)
	}
}

func TestTheSitesNameServerKnowsTheLabsNamesAndTheWildcard(t *testing.T) {
	site := siteNames{
		known: map[string]netip.Addr{"vcenter.example": netip.MustParseAddr("192.0.2.1")}, domain: "platform.example", traefik: netip.MustParseAddr("192.0.2.2"),
	}

	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}

	server := &dns.Server{PacketConn: conn, Handler: site}

	go func() { _ = server.ActivateAndServe() }()

	t.Cleanup(func() { _ = server.Shutdown() })

	for name, wanted := range map[string]string{"vcenter.example.": "192.0.2.1", "any.Platform.example.": "192.0.2.2", "other.example.": ""} {
		question := new(dns.Msg)
		question.SetQuestion(name, dns.TypeA)

		answer, _, err := (&dns.Client{Timeout: time.Minute}).Exchange(question, conn.LocalAddr().String())
		if err != nil {
			t.Fatal(err)
		}

		switch {
		case wanted == "" && answer.Rcode != dns.RcodeNameError:
			t.Errorf("%s: %v", name, answer)
		case wanted != "" && (len(answer.Answer) != 1 || !strings.Contains(answer.Answer[0].String(), wanted)):
			t.Errorf("%s: %v", name, answer)
		}
	}
}
