// Command omnictl is Sidero Omni's own command line, as its client module has it. Omni's build says which version it is and
// which version of the API it speaks; here the lab's builder stamps the first, and the second stands below.
package main

import (
	"os"

	"github.com/siderolabs/omni/client/pkg/omnictl"
	"github.com/siderolabs/omni/client/pkg/version"
)

// apiVersion is that of Omni 1.9: a server with another one refuses this client.
const apiVersion = 2

func main() {
	version.Name, version.API = "omnictl", apiVersion
	omnictl.RootCmd.Version = version.String()

	if err := omnictl.RootCmd.Execute(); err != nil {
		os.Exit(1)
	}
}
