package certapprover

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/client-go/util/workqueue"

	"platform.lab/lab/internal/httpserver"
)

// probes is where the program answers its kubelet.
const probes = ":8080"

// What its elections take: the numbers of controller-runtime, over which the real one is built.
const (
	leaseLasts = 15 * time.Second
	leaseRenew = 10 * time.Second
	leaseRetry = 2 * time.Second
)

// Main runs the program in a pod, until it is asked to end.
func Main(ctx context.Context, args []string) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM)
	defer stop()

	slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, nil)))

	root := &cobra.Command{Use: Name, SilenceUsage: true, SilenceErrors: true}
	elect := false
	serve := &cobra.Command{
		Use: "serve", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error { return serve(c.Context(), elect) },
	}
	serve.Flags().BoolVar(&elect, "enable-leader-election", false, "one of several pods approves")
	root.AddCommand(serve)
	root.SetArgs(args)

	return root.ExecuteContext(ctx)
}

func serve(ctx context.Context, elect bool) error {
	namespace := os.Getenv("NAMESPACE")
	if namespace == "" {
		return errors.New("NAMESPACE is not set: it names the namespace of the lease")
	}

	config, err := rest.InClusterConfig()
	if err != nil {
		return err
	}

	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}

	pod, err := os.Hostname()
	if err != nil {
		return err
	}

	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", probes)
	if err != nil {
		return err
	}

	ctx, end := context.WithCancel(ctx)
	defer end()

	go func() {
		defer end()

		if err := httpserver.Serve(ctx, listener, &http.Server{Handler: probesHandler()}, slog.Default()); err != nil {
			slog.Error("probes are not answered any more", "error", err)
		}
	}()

	if !elect {
		return Run(ctx, client)
	}

	return lead(ctx, client, namespace, pod)
}

func probesHandler() http.Handler {
	mux := http.NewServeMux()
	for _, path := range []string{"/healthz", "/readyz"} {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	}

	return mux
}

// lead approves while this pod holds the lease. A pod that loses it ends, as the real one does, and is started again.
func lead(ctx context.Context, client kubernetes.Interface, namespace, pod string) error {
	ctx, end := context.WithCancel(ctx)
	defer end()

	ended := make(chan error, 1)

	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: &resourcelock.LeaseLock{
			LeaseMeta: metav1.ObjectMeta{Namespace: namespace, Name: Name}, Client: client.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: pod},
		},
		LeaseDuration: leaseLasts, RenewDeadline: leaseRenew, RetryPeriod: leaseRetry, ReleaseOnCancel: true, Name: Name,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(ctx context.Context) {
				ended <- Run(ctx, client)

				end()
			},
			OnStoppedLeading: func() {},
		},
	})
	if err != nil {
		return err
	}

	elector.Run(ctx)

	if ctx.Err() == nil {
		return errors.New("the lease was lost")
	}

	select {
	case err := <-ended:
		return err
	default:
		return nil
	}
}

// Run approves what may be approved, until the context ends.
func Run(ctx context.Context, client kubernetes.Interface) error {
	factory := informers.NewSharedInformerFactory(client, 0)
	requests := factory.Certificates().V1().CertificateSigningRequests()
	queue := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[string]())
	add := func(object any) {
		if request, ok := object.(*certificatesv1.CertificateSigningRequest); ok {
			queue.Add(request.Name)
		}
	}

	_, err := requests.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: add, UpdateFunc: func(_, object any) { add(object) }})
	if err != nil {
		return err
	}

	factory.Start(ctx.Done())
	defer factory.Shutdown()
	factory.WaitForCacheSync(ctx.Done())
	context.AfterFunc(ctx, queue.ShutDown)

	for {
		name, ended := queue.Get()
		if ended {
			return nil
		}

		request, err := requests.Lister().Get(name)
		if err == nil && IsOpen(request) {
			err = decide(ctx, client, request)
		} else {
			err = nil // gone, or another's
		}

		if err != nil && ctx.Err() == nil {
			slog.Warn("a request is looked at again", "request", name, "error", err)
			queue.AddRateLimited(name)
		} else {
			queue.Forget(name)
		}

		queue.Done(name)
	}
}

// decide approves a request or leaves it as it is.
func decide(ctx context.Context, client kubernetes.Interface, request *certificatesv1.CertificateSigningRequest) error {
	_, err := Check(request)
	if err == nil {
		err = Approve(ctx, client, request, "the lab's stand-in for it")
	}

	switch {
	case errors.Is(err, ErrRefused):
		slog.Warn("not approved", "request", request.Name, "reason", err)

		return nil
	case err == nil:
		slog.Info("approved", "request", request.Name, "of", request.Spec.Username)
	}

	return err
}
