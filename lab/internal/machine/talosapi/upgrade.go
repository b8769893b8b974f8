package talosapi

import (
	"context"
	"errors"
	"fmt"
	"path"
	"regexp"
	"strings"

	machineapi "github.com/siderolabs/talos/pkg/machinery/api/machine"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"platform.lab/lab/internal/machine/configuration"
	"platform.lab/lab/internal/machine/etcd"
	"platform.lab/lab/internal/machine/hardware"
)

// ErrNotFound is a registry's answer for an image that it does not have.
var ErrNotFound = errors.New("not found")

// installerName is an installer of an image factory: HOST/PLATFORM-installer/SCHEMATIC:TAG, PLATFORM being optional.
var installerName = regexp.MustCompile(`^[^/]+/([a-z]+-)?installer/[^/]+:v[^/]+$`)

// fetch is what an installer installs. An image that is no installer of a factory is there, and says nothing of a Talos.
func (b *Machine) fetch(ctx context.Context, name string) (hardware.Image, error) {
	if b.Fetch == nil || !installerName.MatchString(name) {
		repository, _, _ := strings.Cut(name, ":")

		return hardware.Image{TalosVersion: configuration.ImageTag(name), Schematic: path.Base(repository)}, nil
	}

	image, err := b.Fetch(ctx, name)
	if err != nil {
		// internal/pkg/containers/image, Pull: containerd's resolver says what it asked for.
		return image, fmt.Errorf("failed to pull image %q: failed to resolve image: %s: %w", name, name, err)
	}

	return image, nil
}

// pull answers as Talos' image service does. Simulated: nothing is transferred.
func (b *Machine) pull(ctx context.Context, name string) error {
	if _, err := b.Pull(name); err != nil {
		return status.Errorf(codes.NotFound, "error pulling image: %s", err)
	}

	_, err := b.fetch(ctx, name)
	if errors.Is(err, ErrNotFound) {
		return status.Errorf(codes.NotFound, "error pulling image: %s", err)
	}

	return err
}

// checkUpgrade fetches what is to be installed and, in the older call, refuses an upgrade that etcd could not bear: Talos checks
// that all members are healthy, unless forced. The newer call checks nothing of the kind (internal/app/lifecycle).
func (b *Machine) checkUpgrade(ctx context.Context, name string, forced bool) (hardware.Image, error) {
	if !b.System.Installed() {
		return hardware.Image{}, status.Error(codes.FailedPrecondition, "Talos is not installed")
	}

	image, err := b.fetch(ctx, name)
	if err != nil {
		return image, fmt.Errorf("error validating installer image %q: %w", name, err)
	}

	if !strings.HasPrefix(image.TalosVersion, "v") || strings.Contains(image.TalosVersion, "/") {
		return image, fmt.Errorf("error validating installer image %q: it has no version tag (vX.Y.Z)", name)
	}

	if forced || !b.IsControlPlane() {
		return image, nil
	}

	ctx, cancel := context.WithTimeout(b.Context(), etcd.MemberTimeout)
	defer cancel()

	if err := b.Etcd.ValidateForUpgrade(ctx); err != nil {
		return image, fmt.Errorf("error validating etcd for upgrade: %w", err)
	}

	return image, nil
}

type imageService struct {
	machineapi.UnimplementedImageServiceServer
}

func (*imageService) Pull(in *machineapi.ImageServicePullRequest, stream machineapi.ImageService_PullServer) error {
	if err := at(stream.Context()).pull(stream.Context(), in.ImageRef); err != nil {
		return err
	}

	return stream.Send(&machineapi.ImageServicePullResponse{Response: &machineapi.ImageServicePullResponse_Name{Name: in.ImageRef}})
}

// lifecycleService installs another image beside the running one; the next reboot starts it.
type lifecycleService struct {
	machineapi.UnimplementedLifecycleServiceServer
}

// Upgrade goes on when its caller goes away, as the installer's container does.
func (*lifecycleService) Upgrade(in *machineapi.LifecycleServiceUpgradeRequest, stream machineapi.LifecycleService_UpgradeServer) error {
	b := at(stream.Context())

	if !b.installing.TryLock() {
		return status.Error(codes.FailedPrecondition, "another installation/upgrade is already in progress")
	}
	defer b.installing.Unlock()

	if !b.System.Installed() {
		return status.Error(codes.FailedPrecondition, "machine is not installed")
	}

	image, err := b.checkUpgrade(b.Context(), in.GetSource().GetImageName(), true)
	if err != nil {
		return status.Error(codes.Internal, fmt.Sprintf("upgrade failed: %v", err))
	}

	b.Log.Info("starting upgrade: installer_image=" + in.GetSource().GetImageName())

	if !b.Sleep(b.InstallDelay) {
		return status.Error(codes.Unavailable, "the machine lost its power")
	}

	if err := b.System.Install(image); err != nil {
		return status.Error(codes.Internal, fmt.Sprintf("upgrade failed: %v", err))
	}

	b.Log.Info("upgrade completed successfully: exit_code=0")

	return stream.Send(&machineapi.LifecycleServiceUpgradeResponse{Progress: &machineapi.LifecycleServiceInstallProgress{
		Response: &machineapi.LifecycleServiceInstallProgress_ExitCode{ExitCode: 0},
	}})
}
