package simulated

import (
	"fmt"
	"strings"
)

// commands of talosctl never ask a machine: what they would need is not in the lab.
var commands = map[string]answer{
	"cluster":     {"talosctl makes no clusters of containers or virtual machines here", "the stack's machines are the cluster: `pulumi up`, `talosctl get members`"},
	"conformance": {"pods are simulated, so Kubernetes' conformance tests have nothing to run", "`kubectl get --raw /readyz?verbose` asks the real API server"},
}

// Talosctl is a script in the place of talosctl: it answers for those commands, puts a support bundle into the world's
// folder, where it otherwise would be left in the operator's, and leaves everything else to the real program.
func Talosctl(real string) string {
	var cases strings.Builder
	for name, known := range commands {
		fmt.Fprintf(&cases, "%s) echo %s >&2; exit 1 ;;\n", name, quote("talosctl: "+sentence(known.what, known.instead)))
	}

	return fmt.Sprintf(`#!/bin/sh
# The command is the first word that is neither an option nor its value.
command= value=
for word; do
    if [ -n "$value" ]; then value=; continue; fi
    case $word in
        -n | --nodes | -e | --endpoints | -c | --cluster | --context | --talosconfig | --siderov1-keys-dir) value=yes ;;
        -*) ;;
        *) command=$word; break ;;
    esac
done
case $command in
version)
    # A talosctl of another line, for the rehearsal of an upgrade to it: only its name is simulated.
    case "$LAB_TALOSCTL_SAYS $*" in
        v*" "*--client*) echo "Talos $LAB_TALOSCTL_SAYS (simulated: the lab's talosctl says so)"; exit ;;
    esac ;;
%ssupport)
    given=
    for word; do
        case $word in -O* | --output | --output=* | -h | --help) given=yes ;; esac
    done
    [ -n "$given" ] || set -- "$@" --output "$LAB_WORLD/support-$(date +%%Y%%m%%dT%%H%%M%%S).zip" ;;
esac
exec %s "$@"
`, cases.String(), quote(real))
}

// quote makes one word of a text for a POSIX shell.
func quote(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }
