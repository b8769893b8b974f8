package talosapi

import (
	"context"
	"fmt"
	"strings"
	"time"

	machineapi "github.com/siderolabs/talos/pkg/machinery/api/machine"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"platform.lab/lab/internal/machine/configuration"
	"platform.lab/lab/internal/machine/etcd"
)

// checkUpgrade reads the version from an installer image and refuses an upgrade that etcd could not bear:
// Talos checks that all members are healthy, unless forced.
func (b *Machine) checkUpgrade(image string, forced bool) (string, error) {
	if !b.System.Installed() {
		return "", status.Error(codes.FailedPrecondition, "Talos is not installed")
	}

	version := configuration.ImageTag(image)
	if !strings.HasPrefix(version, "v") || strings.Contains(version, "/") {
		return "", fmt.Errorf("error validating installer image %q: it has no version tag (vX.Y.Z)", image)
	}

	if forced || !b.IsControlPlane() {
		return version, nil
	}

	ctx, cancel := context.WithTimeout(b.Context(), etcd.MemberTimeout)
	defer cancel()

	if err := b.Etcd.ValidateForUpgrade(ctx); err != nil {
		return "", fmt.Errorf("error validating etcd for upgrade: %w", err)
	}

	return version, nil
}

// imageService pulls nothing: an image is there as soon as it is asked for.
type imageService struct {
	machineapi.UnimplementedImageServiceServer
}

func (*imageService) Pull(in *machineapi.ImageServicePullRequest, stream machineapi.ImageService_PullServer) error {
	return stream.Send(&machineapi.ImageServicePullResponse{Response: &machineapi.ImageServicePullResponse_Name{Name: in.ImageRef}})
}

// lifecycleService installs another version beside the running one; the next reboot starts it.
type lifecycleService struct {
	machineapi.UnimplementedLifecycleServiceServer
}

func (*lifecycleService) Upgrade(in *machineapi.LifecycleServiceUpgradeRequest, stream machineapi.LifecycleService_UpgradeServer) error {
	b := at(stream.Context())

	version, err := b.checkUpgrade(in.GetSource().GetImageName(), true)
	if err != nil {
		return err
	}

	if !b.Sleep(min(b.InstallDelay, time.Minute)) {
		return status.Error(codes.Unavailable, "the machine lost its power")
	}

	if err := b.System.StageVersion(version); err != nil {
		return err
	}

	return stream.Send(&machineapi.LifecycleServiceUpgradeResponse{Progress: &machineapi.LifecycleServiceInstallProgress{
		Response: &machineapi.LifecycleServiceInstallProgress_ExitCode{ExitCode: 0},
	}})
}
