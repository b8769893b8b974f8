package world

import (
	"fmt"
	"strconv"
)

// mostHosts is the most that a cluster of vSphere 8 takes (configmax.broadcom.com).
const mostHosts = 96

// CountHosts reads how many ESXi hosts the cluster is to have; 0 stands for a choice that nobody made.
func CountHosts(choice string) (int, error) {
	if choice == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(choice)
	if err != nil || n < 1 || n > mostHosts {
		return 0, fmt.Errorf("--hosts (or LAB_HOSTS) %q: must be a number of ESXi hosts from 1 to %d; left out, there are as many as machines",
			choice, mostHosts)
	}
	return n, nil
}
