package pods

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"platform.lab/lab/internal/machine/container"
)

// probe runs a container's probes until its process ends: the startup probe alone first, then the other two.
func (w *worker) probe(ctx context.Context, pod *corev1.Pod, one *member, process *container.Process) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	go func() {
		select {
		case <-process.Ended():
			cancel()
		case <-ctx.Done():
		}
	}()

	set := func(change func()) {
		w.mu.Lock()
		if one.process == process {
			change()
		}
		w.mu.Unlock()
		w.raise()
	}

	dead := func(what string) {
		w.r.event(pod, corev1.EventTypeNormal, "Killing", "Container %s failed %s probe, will be restarted", one.spec.Name, what)
		cancel()
		process.Stop(w.r.Context(), graceOf(pod, one, what))
	}

	if startup := one.spec.StartupProbe; startup != nil {
		done, cancelStartup := context.WithCancel(ctx)

		w.loop(done, pod, one, process, "Startup", startup, false, func(success bool) {
			if success {
				set(func() { one.started, one.ready = true, one.spec.ReadinessProbe == nil })
			} else {
				dead("startup")
			}

			cancelStartup()
		})
		cancelStartup()
	}

	if ctx.Err() != nil || !w.isStarted(one) {
		return
	}

	if liveness := one.spec.LivenessProbe; liveness != nil {
		w.r.Go(func() {
			w.loop(ctx, pod, one, process, "Liveness", liveness, true, func(success bool) {
				if !success {
					dead("liveness")
				}
			})
		})
	}

	if readiness := one.spec.ReadinessProbe; readiness != nil {
		w.loop(ctx, pod, one, process, "Readiness", readiness, false, func(success bool) {
			set(func() { one.ready = success })
		})
	}

	<-ctx.Done()
}

// graceOf is what a container has to end by itself after its probe has failed.
func graceOf(pod *corev1.Pod, one *member, what string) time.Duration {
	seconds := int64(30)
	if pod.Spec.TerminationGracePeriodSeconds != nil {
		seconds = *pod.Spec.TerminationGracePeriodSeconds
	}

	own := one.spec.LivenessProbe
	if what == "startup" {
		own = one.spec.StartupProbe
	}

	if own != nil && own.TerminationGracePeriodSeconds != nil {
		seconds = *own.TerminationGracePeriodSeconds
	}

	return time.Duration(seconds) * time.Second
}

// longestFirst keeps a pod from waiting for its first probe for longer than a program takes to start.
const longestFirst = 2 * time.Second

func orElse(value, otherwise int32) int32 {
	if value == 0 {
		return otherwise
	}

	return value
}

// loop asks as often as a probe says, and tells each change that its thresholds allow; initial is what it counts as before.
func (w *worker) loop(ctx context.Context, pod *corev1.Pod, one *member, process *container.Process, name string, probe *corev1.Probe, initial bool, tell func(success bool)) {
	period := time.Duration(orElse(probe.PeriodSeconds, 10)) * time.Second
	timeout := time.Duration(orElse(probe.TimeoutSeconds, 1)) * time.Second
	good, bad := orElse(probe.SuccessThreshold, 1), orElse(probe.FailureThreshold, 3)

	// A kubelet looks at fixed times, whenever the container began: on an average half a period after that.
	delay := max(time.Duration(probe.InitialDelaySeconds)*time.Second, min(period/2, longestFirst))
	pause := time.Until(process.Started().Add(delay))
	state := initial

	var (
		row  int32
		last bool
	)

	for {
		timer := time.NewTimer(max(pause, 0))
		select {
		case <-ctx.Done():
			timer.Stop()

			return
		case <-timer.C:
		}

		pause = period

		asked, cancel := context.WithTimeout(ctx, timeout)
		err := w.ask(asked, pod, one, process, probe.ProbeHandler)

		cancel()

		if ctx.Err() != nil {
			return
		}

		success := err == nil
		if success != last {
			row = 0
		}

		last = success
		row++

		if err != nil {
			w.r.event(pod, corev1.EventTypeWarning, "Unhealthy", "%s probe failed: %v", name, err)
		}

		switch {
		case success && row >= good && (!state || name == "Startup"):
			state = true
			tell(true)
		case !success && row >= bad && (state || name == "Startup"):
			state = false
			tell(false)
		}
	}
}

// ask is one look of a probe: nil when the container is well.
func (w *worker) ask(ctx context.Context, pod *corev1.Pod, one *member, process *container.Process, handler corev1.ProbeHandler) error {
	switch {
	case handler.HTTPGet != nil:
		return w.askHTTP(ctx, pod, one, handler.HTTPGet, "kube-probe/1.34")
	case handler.TCPSocket != nil:
		address, err := w.target(one, handler.TCPSocket.Host, handler.TCPSocket.Port)
		if err != nil {
			return err
		}

		conn, err := w.r.Network.DialContext(ctx, "tcp", address)
		if err != nil {
			return err
		}

		return conn.Close()
	case handler.GRPC != nil:
		return w.askGRPC(ctx, one, handler.GRPC)
	case handler.Exec != nil:
		var output bytes.Buffer

		err := process.Run(ctx, handler.Exec.Command, &output)
		if ctx.Err() != nil {
			return fmt.Errorf("command timed out: %q timed out", strings.Join(handler.Exec.Command, " "))
		}

		if err != nil {
			return fmt.Errorf("%s", bytes.TrimSpace(append(output.Bytes(), err.Error()...)))
		}

		return nil
	}

	return errors.New("missing probe handler")
}

// target is the address of a port of the container, which may have a name.
func (w *worker) target(one *member, host string, port intstr.IntOrString) (string, error) {
	number := port.IntValue()

	if port.Type == intstr.String {
		if number = named(one.spec, port.StrVal); number == 0 {
			return "", fmt.Errorf("couldn't find port: %s", port.StrVal)
		}
	}

	if host == "" {
		w.mu.Lock()
		sandbox := w.sandbox
		w.mu.Unlock()

		if sandbox == nil {
			return "", errors.New("the pod has no network")
		}

		host = sandbox.address.String()
	}

	return net.JoinHostPort(host, strconv.Itoa(number)), nil
}

func named(spec corev1.Container, name string) int {
	for _, port := range spec.Ports {
		if port.Name == name {
			return int(port.ContainerPort)
		}
	}

	number, _ := strconv.Atoi(name)

	return number
}

// mostBody is what is read of a probe's answer.
const mostBody = 10 << 10

func (w *worker) askHTTP(ctx context.Context, pod *corev1.Pod, one *member, action *corev1.HTTPGetAction, agent string) error {
	address, err := w.target(one, action.Host, action.Port)
	if err != nil {
		return err
	}

	scheme := strings.ToLower(string(action.Scheme))
	if scheme == "" {
		scheme = "http"
	}

	location, err := url.Parse(action.Path)
	if err != nil {
		return fmt.Errorf("probe of pod %s: path %q: %w", pod.Name, action.Path, err)
	}

	location.Scheme, location.Host = scheme, address

	request, err := http.NewRequestWithContext(ctx, http.MethodGet, location.String(), nil)
	if err != nil {
		return err
	}

	request.Header.Set("User-Agent", agent)
	request.Header.Set("Accept", "*/*")

	for _, header := range action.HTTPHeaders {
		request.Header.Add(header.Name, header.Value)

		if strings.EqualFold(header.Name, "host") {
			request.Host = header.Value
		}
	}

	client := &http.Client{
		Transport: &http.Transport{
			DialContext: w.r.Network.DialContext, DisableKeepAlives: true,
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // a kubelet verifies nothing here either
		},
		CheckRedirect: func(next *http.Request, _ []*http.Request) error {
			if next.URL.Hostname() != request.URL.Hostname() {
				return http.ErrUseLastResponse
			}

			return nil
		},
	}

	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()

	_, _ = io.Copy(io.Discard, io.LimitReader(answer.Body, mostBody))

	if answer.StatusCode < http.StatusOK || answer.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("HTTP probe failed with statuscode: %d", answer.StatusCode)
	}

	return nil
}

func (w *worker) askGRPC(ctx context.Context, one *member, action *corev1.GRPCAction) error {
	address, err := w.target(one, "", intstr.FromInt32(action.Port))
	if err != nil {
		return err
	}

	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return w.r.Network.DialContext(ctx, "tcp", address)
		}))
	if err != nil {
		return err
	}
	defer conn.Close()

	request := &healthpb.HealthCheckRequest{}
	if action.Service != nil {
		request.Service = *action.Service
	}

	answer, err := healthpb.NewHealthClient(conn).Check(ctx, request)
	if err != nil {
		return err
	}

	if answer.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		return fmt.Errorf("service unhealthy (responded with %q)", answer.GetStatus())
	}

	return nil
}

// hook runs a container's postStart or preStop.
func (w *worker) hook(ctx context.Context, one *member, process *container.Process, handler *corev1.LifecycleHandler) error {
	switch {
	case handler.Exec != nil:
		var output bytes.Buffer
		if err := process.Run(ctx, handler.Exec.Command, &output); err != nil {
			return fmt.Errorf("%w: %s", err, bytes.TrimSpace(output.Bytes()))
		}

		return nil
	case handler.HTTPGet != nil:
		return w.askHTTP(ctx, w.podNow(), one, handler.HTTPGet, "kube-lifecycle/1.34")
	case handler.Sleep != nil:
		timer := time.NewTimer(time.Duration(handler.Sleep.Seconds) * time.Second)
		defer timer.Stop()

		select {
		case <-timer.C:
		case <-process.Ended():
		case <-ctx.Done():
		}

		return nil
	}

	return errors.New("invalid handler")
}
