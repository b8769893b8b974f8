// Command argocd is the programs of Argo CD that the platform's pods run, in one file and by its name as in Argo CD's image.
// The command line and the plugins for clusters in clouds are left out: no pod of the platform runs them.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	controller "github.com/argoproj/argo-cd/v3/cmd/argocd-application-controller/commands"
	applicationset "github.com/argoproj/argo-cd/v3/cmd/argocd-applicationset-controller/commands"
	dex "github.com/argoproj/argo-cd/v3/cmd/argocd-dex/commands"
	askpass "github.com/argoproj/argo-cd/v3/cmd/argocd-git-ask-pass/commands"
	notifications "github.com/argoproj/argo-cd/v3/cmd/argocd-notification/commands"
	reposerver "github.com/argoproj/argo-cd/v3/cmd/argocd-repo-server/commands"
	server "github.com/argoproj/argo-cd/v3/cmd/argocd-server/commands"
	"github.com/argoproj/argo-cd/v3/common"
	"github.com/argoproj/argo-cd/v3/util/grpc"
	"github.com/argoproj/argo-cd/v3/util/log"
	"github.com/spf13/cobra"
	"k8s.io/klog/v2"
)

func main() {
	klog.SetLogger(log.NewLogrusLogger(log.NewWithCurrentConfig()))
	grpc.DisableSRVLookups()

	makers := map[string]func() *cobra.Command{
		common.CommandServer: server.NewCommand, common.CommandApplicationController: controller.NewCommand,
		common.CommandRepoServer: reposerver.NewCommand, common.CommandApplicationSetController: applicationset.NewCommand,
		common.CommandDex: dex.NewCommand, common.CommandNotifications: notifications.NewCommand, common.CommandGitAskPass: askpass.NewCommand,
	}

	// Argo CD sets the variable where it starts itself by another name, such as Git's questions for a password.
	name := os.Getenv("ARGOCD_BINARY_NAME")
	if name == "" {
		name = filepath.Base(os.Args[0])
	}

	make, known := makers[name]
	if !known {
		fmt.Fprintf(os.Stderr, "%s: not in the lab: its Argo CD has no command line and no plugins\n", name)
		os.Exit(1)
	}

	if make().Execute() != nil {
		os.Exit(1) // it has said why
	}
}
