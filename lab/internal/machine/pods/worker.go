package pods

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"platform.lab/lab/internal/machine/container"
	"platform.lab/lab/internal/programs"
)

const (
	// tick is how often a pod is looked at when nothing happens.
	tick = 500 * time.Millisecond
	// firstBackOff and lastBackOff bound the pause before a container is started again; it doubles, and begins anew when
	// the container ran for forgetBackOff (pkg/kubelet of Kubernetes: 10 s to 5 min, and twice that).
	firstBackOff  = 10 * time.Second
	lastBackOff   = 5 * time.Minute
	forgetBackOff = 10 * time.Minute
	// retryPause is after a sandbox or a volume that failed.
	retryPause = 2 * time.Second
	// refreshVolumes is how often ConfigMaps, Secrets and tokens are looked at again; a kubelet needs about a minute.
	refreshVolumes = 15 * time.Second
	// memoryPause is how often the limits of memory are looked at.
	memoryPause = time.Second
)

// role is what a container is in its pod.
type role int

const (
	mainRole role = iota
	initRole
	// sidecarRole is an init container that goes on (restartPolicy: Always).
	sidecarRole
)

// member is a container of the pod with its present state.
type member struct {
	spec  corev1.Container
	role  role
	image programs.Image

	process  *container.Process
	state    corev1.ContainerState
	last     corev1.ContainerState
	id       string
	restarts int32
	// ready and started are what the probes say.
	ready, started bool
	// stopProbes ends the probes of the present process, and noted is closed when its end is in state.
	stopProbes context.CancelFunc
	noted      chan struct{}

	backOff time.Duration
	// begun is whether it was ever started by this worker, or before the machine's boot.
	begun bool
}

// worker runs one pod. Its goroutine alone starts and ends things; others read under mu.
type worker struct {
	r *Runtime

	wake chan struct{}
	done chan struct{}

	mu      sync.Mutex
	pod     *corev1.Pod
	members []*member
	sandbox *sandbox
	// removed is set when the API has the pod no more.
	removed bool
	// failed is why the pod as a whole has failed.
	failed *corev1.PodStatus
	begun  metav1.Time

	volumes     volumes
	nextVolumes time.Time
	nextMemory  time.Time
	retryAt     time.Time
	complained  string
	published   *corev1.PodStatus
}

func newWorker(r *Runtime, pod *corev1.Pod) *worker {
	w := &worker{r: r, pod: pod, wake: make(chan struct{}, 1), done: make(chan struct{}), begun: metav1.Now(), volumes: volumes{}}
	if pod.Status.StartTime != nil {
		w.begun = *pod.Status.StartTime
	}

	for _, spec := range pod.Spec.InitContainers {
		kind := initRole
		if spec.RestartPolicy != nil && *spec.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			kind = sidecarRole
		}

		w.add(spec, kind, pod.Status.InitContainerStatuses)
	}

	for _, spec := range pod.Spec.Containers {
		w.add(spec, mainRole, pod.Status.ContainerStatuses)
	}

	return w
}

// add begins a container as new, or after what its status says: a reboot has ended it.
func (w *worker) add(spec corev1.Container, kind role, statuses []corev1.ContainerStatus) {
	image, _ := programs.ImageOf(w.r.Images, spec.Image)
	one := &member{spec: spec, role: kind, image: image, state: waiting("PodInitializing", "")}

	if kind != mainRole || len(w.pod.Spec.InitContainers) == 0 {
		one.state = waiting("ContainerCreating", "")
	}

	at := slices.IndexFunc(statuses, func(s corev1.ContainerStatus) bool { return s.Name == spec.Name })
	if at >= 0 && hasRun(statuses[at]) {
		before := statuses[at]
		one.begun, one.restarts, one.last = true, before.RestartCount, before.LastTerminationState

		if ran := before.State.Running; ran != nil {
			one.last = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
				ExitCode: lostExitCode, Reason: "Unknown", StartedAt: ran.StartedAt, FinishedAt: metav1.Now(), ContainerID: before.ContainerID,
			}}
		} else if before.State.Terminated != nil {
			one.last = before.State
		}
	}

	w.members = append(w.members, one)
}

func hasRun(status corev1.ContainerStatus) bool {
	return status.State.Running != nil || status.State.Terminated != nil || status.LastTerminationState.Terminated != nil
}

// lostExitCode is what the kubelet says of a container that it finds gone.
const lostExitCode = 255

func waiting(reason, message string) corev1.ContainerState {
	return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}
}

// take gives the worker its pod as the API has it. The API server's cache may be behind what the worker has read itself.
func (w *worker) take(pod *corev1.Pod) {
	w.mu.Lock()

	changed := isNewer(pod.ResourceVersion, w.pod.ResourceVersion)
	if changed {
		w.pod = pod
	}
	w.mu.Unlock()

	if changed {
		w.raise()
	}
}

// isNewer compares versions of one object, which rise (KEP 5504). What is no number is taken for newer.
func isNewer(version, than string) bool {
	mine, err := strconv.ParseUint(version, 10, 64)
	other, err2 := strconv.ParseUint(than, 10, 64)

	return errors.Join(err, err2) != nil || mine > other
}

// gone says that the API has the pod no more.
func (w *worker) gone() {
	w.mu.Lock()
	w.removed = true
	w.mu.Unlock()
	w.raise()
}

func (w *worker) raise() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *worker) isDone() bool {
	select {
	case <-w.done:
		return true
	default:
		return false
	}
}

func (w *worker) podNow() *corev1.Pod {
	w.mu.Lock()
	defer w.mu.Unlock()

	return w.pod
}

func (w *worker) run() {
	defer close(w.done)

	ctx := w.r.Context()

	for {
		w.mu.Lock()
		pod, removed := w.pod, w.removed
		w.mu.Unlock()

		switch {
		case w.r.IsOver():
			w.powerCut()

			return
		case w.r.IsStopping():
			w.stopAll(ctx, rebootGrace, "")
			w.tearDown(false)

			return
		case removed:
			w.stopAll(ctx, 0, "")
			w.tearDown(true)

			return
		case pod.DeletionTimestamp != nil:
			w.terminate(ctx)

			return
		}

		w.step(ctx)
		w.publish(ctx)

		timer := time.NewTimer(tick)
		select {
		case <-w.wake:
		case <-timer.C:
		case <-w.r.Stopping():
		case <-ctx.Done():
		}

		timer.Stop()
	}
}

// rebootGrace is what Talos gives pods before it ends them for a reboot, at the most.
const rebootGrace = 5 * time.Second

// step brings the pod one step nearer to what its spec says.
func (w *worker) step(ctx context.Context) {
	pod := w.podNow()

	if w.over() {
		w.tearDown(false)

		return
	}

	if deadline := pod.Spec.ActiveDeadlineSeconds; deadline != nil && time.Since(w.begun.Time) > time.Duration(*deadline)*time.Second {
		w.fail(ctx, "DeadlineExceeded", "Pod was active on the node longer than the specified deadline")

		return
	}

	if time.Now().Before(w.retryAt) {
		return
	}

	if err := w.prepare(ctx, pod); err != nil {
		w.retryAt = time.Now().Add(retryPause)

		return
	}

	w.holdMemory()

	if !w.initialize(ctx, pod) {
		return
	}

	for _, one := range w.members {
		if one.role == mainRole {
			w.keep(ctx, pod, one, restartsMain(pod))
		}
	}
}

// prepare makes the sandbox and the volumes, and keeps the volumes up to date.
func (w *worker) prepare(ctx context.Context, pod *corev1.Pod) error {
	if w.sandbox == nil {
		made, err := w.newSandbox(pod)
		if errors.Is(err, errNetworkNotReady) {
			w.complain(pod, "NetworkNotReady", err)

			return err
		}

		if err != nil {
			w.complain(pod, "FailedCreatePodSandBox", fmt.Errorf("Failed to create pod sandbox: %w", err)) //nolint:staticcheck // a kubelet's words

			return err
		}

		w.mu.Lock()
		w.sandbox = made
		w.mu.Unlock()
	}

	if time.Now().Before(w.nextVolumes) {
		return nil
	}

	begun := w.nextVolumes.IsZero()

	if err := w.mountVolumes(ctx, pod); err != nil {
		w.complain(pod, "FailedMount", err)

		if begun {
			return err
		}
	}

	w.nextVolumes = time.Now().Add(refreshVolumes)

	return nil
}

// complain makes an event, once for a row of equal ones.
func (w *worker) complain(pod *corev1.Pod, reason string, err error) {
	text := reason + err.Error()
	if w.complained == text {
		return
	}

	w.complained = text
	w.r.event(pod, corev1.EventTypeWarning, reason, "%v", err)
	w.r.Log.Warn("pod", "namespace", pod.Namespace, "pod", pod.Name, "reason", reason, "error", err)
}

// initialize runs the init containers in their order, and says whether all have done their part.
func (w *worker) initialize(ctx context.Context, pod *corev1.Pod) bool {
	for _, one := range w.members {
		switch one.role {
		case mainRole:
			continue
		case sidecarRole:
			w.keep(ctx, pod, one, always)

			if !w.isStarted(one) {
				return false
			}
		case initRole:
			ended := w.ended(one)
			if ended != nil && ended.ExitCode == 0 {
				continue
			}

			w.keep(ctx, pod, one, restartsInit(pod))

			if ended := w.ended(one); ended != nil && pod.Spec.RestartPolicy == corev1.RestartPolicyNever {
				w.fail(ctx, "", "")
			}

			return false
		}
	}

	return true
}

// restarts says whether a container that ended is started again.
type restarts func(*corev1.ContainerStateTerminated) bool

func always(*corev1.ContainerStateTerminated) bool { return true }

func restartsMain(pod *corev1.Pod) restarts {
	return func(ended *corev1.ContainerStateTerminated) bool {
		switch pod.Spec.RestartPolicy {
		case corev1.RestartPolicyNever:
			return false
		case corev1.RestartPolicyOnFailure:
			return ended.ExitCode != 0
		case corev1.RestartPolicyAlways:
		}

		return true
	}
}

func restartsInit(pod *corev1.Pod) restarts {
	return func(ended *corev1.ContainerStateTerminated) bool {
		return ended.ExitCode != 0 && pod.Spec.RestartPolicy != corev1.RestartPolicyNever
	}
}

func (w *worker) isStarted(one *member) bool {
	w.mu.Lock()
	defer w.mu.Unlock()

	return one.process != nil && one.started
}

// ended is how a container ended; nil while it runs or waits.
func (w *worker) ended(one *member) *corev1.ContainerStateTerminated {
	w.mu.Lock()
	defer w.mu.Unlock()

	return one.state.Terminated
}

// keep starts a container that does not run, unless it has ended for good or its back-off holds it.
func (w *worker) keep(ctx context.Context, pod *corev1.Pod, one *member, again restarts) {
	w.mu.Lock()
	runs, ended := one.process != nil, one.state.Terminated
	w.mu.Unlock()

	if runs || ended != nil && !again(ended) {
		return
	}

	// After a container that ended; one that could not be started waits as well.
	last := ended
	if last == nil && one.backOff > 0 {
		last = one.last.Terminated
	}

	if last != nil && !w.mayStart(pod, one, last) {
		return
	}

	w.start(ctx, pod, one)
}

// mayStart holds a container back as a kubelet does: the first time it starts again at once, then after 10 s, 20 s, ...
func (w *worker) mayStart(pod *corev1.Pod, one *member, ended *corev1.ContainerStateTerminated) bool {
	since := ended.FinishedAt.Time

	// One that could not be started has no time of its start, but that of the epoch.
	if one.backOff > 0 && ended.StartedAt.Unix() > 0 && ended.FinishedAt.Sub(ended.StartedAt.Time) > forgetBackOff {
		one.backOff = 0
	}

	if one.backOff > 0 && time.Since(since) < one.backOff {
		w.mu.Lock()
		held := one.state.Waiting != nil && one.state.Waiting.Reason == "CrashLoopBackOff"
		message := fmt.Sprintf("back-off %s restarting failed container=%s pod=%s_%s(%s)", one.backOff, one.spec.Name, pod.Name, pod.Namespace, pod.UID)

		if !held {
			if one.state.Terminated != nil {
				one.last = one.state
			}

			one.state = waiting("CrashLoopBackOff", message)
		}
		w.mu.Unlock()

		if !held {
			w.r.event(pod, corev1.EventTypeWarning, "BackOff", "Back-off restarting failed container %s in pod %s_%s(%s)", one.spec.Name, pod.Name, pod.Namespace, pod.UID)
		}

		return false
	}

	one.backOff = min(max(2*one.backOff, firstBackOff), lastBackOff)

	return true
}

// start starts a container once.
func (w *worker) start(ctx context.Context, pod *corev1.Pod, one *member) {
	spec, err := w.specOf(ctx, pod, one)
	if err != nil {
		w.refuse(pod, one, "CreateContainerConfigError", err)

		return
	}

	w.mu.Lock()
	if one.begun {
		one.restarts++
	}

	if one.state.Terminated != nil {
		one.last = one.state
	}

	one.begun = true
	number := one.restarts
	w.mu.Unlock()

	output, err := w.r.openLog(pod, one.spec.Name, number)
	if err != nil {
		w.refuse(pod, one, "CreateContainerError", err)

		return
	}

	begun := metav1.Now()

	process, err := container.Start(w.r.Self, spec, w.sandbox.start, output.stdout, output.stderr)
	output.begun()

	if err != nil {
		w.refuseStart(pod, one, begun, err)

		return
	}

	w.r.event(pod, corev1.EventTypeNormal, "Started", "Started container %s", one.spec.Name)

	probing, stopProbes := context.WithCancel(ctx)

	w.mu.Lock()
	one.process, one.stopProbes, one.noted = process, stopProbes, make(chan struct{})
	one.id = "process://" + containerID(pod.UID, one.spec.Name, number)
	one.ready, one.started = one.spec.ReadinessProbe == nil && one.spec.StartupProbe == nil, one.spec.StartupProbe == nil
	one.state = corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: begun}}
	w.mu.Unlock()

	w.r.Go(func() { w.await(pod, one, process, output) })

	if hook := one.spec.Lifecycle; hook != nil && hook.PostStart != nil {
		if err := w.hook(ctx, one, process, hook.PostStart); err != nil {
			w.r.event(pod, corev1.EventTypeWarning, "FailedPostStartHook", "PostStartHook failed: %v", err)
			process.KillFor("Error")

			return
		}
	}

	w.r.Go(func() { w.probe(probing, pod, one, process) })
}

// refuse says why a container cannot be made; it is tried again.
func (w *worker) refuse(pod *corev1.Pod, one *member, reason string, err error) {
	w.complain(pod, "Failed", fmt.Errorf("Error: %w", err)) //nolint:staticcheck // a kubelet's words

	w.mu.Lock()
	one.state = waiting(reason, err.Error())
	w.mu.Unlock()

	w.retryAt = time.Now().Add(retryPause)
}

// startErrorCode is containerd's for a program that cannot be run.
const startErrorCode = 128

func (w *worker) refuseStart(pod *corev1.Pod, one *member, begun metav1.Time, err error) {
	w.complain(pod, "Failed", fmt.Errorf("Error: %w", err)) //nolint:staticcheck // a kubelet's words

	w.mu.Lock()
	one.state = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
		ExitCode: startErrorCode, Reason: "StartError", Message: err.Error(), StartedAt: metav1.NewTime(time.Unix(0, 0)), FinishedAt: begun,
	}}
	w.mu.Unlock()
}

// await notes how a container's process ended.
func (w *worker) await(pod *corev1.Pod, one *member, process *container.Process, output *output) {
	<-process.Ended()
	output.copied.Wait()

	exit := process.Exit()
	ended := &corev1.ContainerStateTerminated{
		ExitCode: int32(exit.Code), Reason: "Completed", //nolint:gosec // a byte, or 128 and a signal
		StartedAt: metav1.NewTime(process.Started()), FinishedAt: metav1.NewTime(exit.At),
	}

	if exit.Code != 0 {
		ended.Reason = "Error"
	}

	if reason := process.KilledFor(); reason != "" {
		ended.Reason = reason
	}

	ended.Message = w.terminationMessage(pod, one, exit.Code)

	w.mu.Lock()
	defer w.mu.Unlock()

	if one.stopProbes != nil {
		one.stopProbes()
	}

	ended.ContainerID = one.id
	one.process, one.ready, one.started = nil, false, false
	one.state = corev1.ContainerState{Terminated: ended}

	close(one.noted)
	w.raise()
}

// holdMemory ends what uses more memory than its limit, as the kernel would with cgroups.
func (w *worker) holdMemory() {
	if time.Now().Before(w.nextMemory) {
		return
	}

	w.nextMemory = time.Now().Add(memoryPause)

	for _, one := range w.members {
		limit, limited := one.spec.Resources.Limits[corev1.ResourceMemory]
		process := w.processOf(one)

		if limited && process != nil && process.Usage().Anonymous > limit.AsApproximateFloat64() {
			process.KillFor("OOMKilled")
		}
	}
}

func (w *worker) processOf(one *member) *container.Process {
	w.mu.Lock()
	defer w.mu.Unlock()

	return one.process
}

// over says whether a pod that ends by itself has ended.
func (w *worker) over() bool {
	w.mu.Lock()
	defer w.mu.Unlock()

	if w.failed != nil {
		return true
	}

	phase := w.phase()

	return phase == corev1.PodSucceeded || phase == corev1.PodFailed
}

// fail ends the whole pod.
func (w *worker) fail(ctx context.Context, reason, message string) {
	w.stopAll(ctx, 0, "")

	w.mu.Lock()
	w.failed = &corev1.PodStatus{Reason: reason, Message: message}
	w.mu.Unlock()
}

// terminate ends a pod that somebody deletes, in its grace period, and lets the API forget it.
func (w *worker) terminate(ctx context.Context) {
	pod := w.podNow()
	grace := time.Duration(0)

	if seconds := pod.DeletionGracePeriodSeconds; seconds != nil {
		grace = time.Until(pod.DeletionTimestamp.Time)
		grace = min(max(grace, 0), time.Duration(*seconds)*time.Second)
	}

	// What asks for the endpoints hears of it while the containers still answer.
	w.stopAll(ctx, grace, "Stopping container %s")

	if w.r.IsOver() {
		w.powerCut()

		return
	}

	w.publish(ctx)
	w.tearDown(true)

	var now int64

	err := w.r.api().CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{
		GracePeriodSeconds: &now, Preconditions: &metav1.Preconditions{UID: &pod.UID},
	})
	if err != nil {
		w.r.Log.Debug("pod not deleted, the next turn tries again", "pod", pod.Name, "error", err)
	}
}

// stopAll ends all containers, the sidecars last and in the reverse of their order; event is what is said of each.
func (w *worker) stopAll(ctx context.Context, grace time.Duration, event string) {
	deadline := time.Now().Add(grace)

	var all sync.WaitGroup

	for _, one := range w.members {
		if one.role != sidecarRole {
			all.Go(func() { w.stop(ctx, one, time.Until(deadline), event) })
		}
	}

	all.Wait()

	for _, one := range slices.Backward(w.members) {
		if one.role == sidecarRole {
			w.stop(ctx, one, time.Until(deadline), event)
		}
	}
}

// leastGrace is what a container gets after a preStop hook that took all of the time.
const leastGrace = 2 * time.Second

// stop ends one container and waits for its end.
func (w *worker) stop(ctx context.Context, one *member, grace time.Duration, event string) {
	w.mu.Lock()
	process, pod, noted := one.process, w.pod, one.noted

	if one.stopProbes != nil {
		one.stopProbes()
	}
	w.mu.Unlock()

	if process == nil {
		return
	}

	defer func() { <-noted }()

	if event != "" {
		w.r.event(pod, corev1.EventTypeNormal, "Killing", event, one.spec.Name)
	}

	if grace <= 0 {
		process.Kill()

		return
	}

	begun := time.Now()

	if hook := one.spec.Lifecycle; hook != nil && hook.PreStop != nil {
		hooked, cancel := context.WithTimeout(ctx, grace)
		if err := w.hook(hooked, one, process, hook.PreStop); err != nil {
			w.r.event(pod, corev1.EventTypeWarning, "FailedPreStopHook", "PreStopHook failed: %v", err)
		}

		cancel()

		grace = max(grace-time.Since(begun), leastGrace)
	}

	process.Stop(ctx, grace)
}

// powerCut ends everything at once.
func (w *worker) powerCut() {
	for _, one := range w.members {
		if process := w.processOf(one); process != nil {
			process.Kill()
			<-process.Ended()
		}
	}

	w.tearDown(false)
}

// tearDown gives the pod's network back; with remove its folder goes, too.
func (w *worker) tearDown(remove bool) {
	w.mu.Lock()
	sandbox := w.sandbox
	w.sandbox = nil
	w.mu.Unlock()

	if sandbox != nil {
		w.r.LogError("pod's network not removed", sandbox.close())
	}

	if remove {
		pod := w.podNow()
		w.r.LogError("pod's folder not removed", errors.Join(os.RemoveAll(w.r.folderOf(pod)), w.r.removeLogs(podLogFolder(pod))))
	}
}
