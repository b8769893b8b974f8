package gitserver

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

func newKey(t *testing.T) (ssh.Signer, string) {
	t.Helper()

	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}

	block, err := ssh.MarshalPrivateKey(private, "of the test")
	if err != nil {
		t.Fatal(err)
	}

	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}

	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}

	return signer, file
}

// overSSH is a server, and a client as Argo CD's: a deploy key, and the host keys that the settings name.
type overSSH struct {
	t          *testing.T
	address    *net.TCPAddr
	commit     string
	key, known string
}

func newOverSSH(t *testing.T) *overSSH {
	t.Helper()

	dir := filepath.Join(t.TempDir(), "repository")

	repository, err := New(context.Background(), Options{Project: project(t), Dir: dir, URL: "ssh://git@git.example.internal/team/platform.git", Revision: "main"})
	if err != nil {
		t.Fatal(err)
	}

	host, _ := newKey(t)
	deploy, file := newKey(t)

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}

	t.Cleanup(func() { listener.Close() })

	server := &SSH{Repository: repository, Dir: dir, HostKey: host, DeployKey: deploy.PublicKey, Log: t.Output()}
	go server.Serve(listener) //nolint:errcheck // ends with the listener

	s := &overSSH{t: t, address: listener.Addr().(*net.TCPAddr), commit: repository.Commit, key: file}
	s.known = s.knows(host.PublicKey())

	return s
}

// knows writes a file of known hosts with this key.
func (s *overSSH) knows(key ssh.PublicKey) string {
	s.t.Helper()

	line := fmt.Sprintf("[127.0.0.1]:%d %s", s.address.Port, ssh.MarshalAuthorizedKey(key))

	file := filepath.Join(s.t.TempDir(), "known_hosts")
	if err := os.WriteFile(file, []byte(line), 0o600); err != nil {
		s.t.Fatal(err)
	}

	return file
}

func (s *overSSH) run(key, known, path string, arguments ...string) (string, error) {
	command := exec.Command("git", append(arguments, fmt.Sprintf("ssh://git@127.0.0.1:%d%s", s.address.Port, path))...)
	// The options are Argo CD's (util/git/creds.go).
	command.Env = append(environment(s.t.TempDir()), "PATH="+os.Getenv("PATH"),
		"GIT_SSH_COMMAND=ssh -F none -i "+key+" -o IdentitiesOnly=yes -o BatchMode=yes -o StrictHostKeyChecking=yes -o UserKnownHostsFile="+known)
	out, err := command.CombinedOutput()

	return string(out), err
}

func TestARepositoryIsReadOverSSHWithItsDeployKey(t *testing.T) {
	s := newOverSSH(t)

	out, err := s.run(s.key, s.known, "/team/platform.git", "ls-remote")
	if err != nil || !strings.Contains(out, s.commit+"\trefs/heads/main") {
		t.Errorf("%v: %s", err, out)
	}

	if out, err := s.run(s.key, s.known, "/team/platform", "ls-remote"); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func TestOverSSHWhatIsWrongIsRefused(t *testing.T) {
	s := newOverSSH(t)
	other, otherFile := newKey(t)

	for name, test := range map[string]struct {
		key, known, path string
		says             string
	}{
		"another host key":   {s.key, s.knows(other.PublicKey()), "/team/platform.git", "Host key verification failed"},
		"another deploy key": {otherFile, s.known, "/team/platform.git", "Permission denied (publickey)"},
		"another repository": {s.key, s.known, "/team/other.git", "the lab serves one repository: /team/platform"},
	} {
		t.Run(name, func(t *testing.T) {
			if out, err := s.run(test.key, test.known, test.path, "ls-remote"); err == nil || !strings.Contains(out, test.says) {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
}

func TestADeployKeyPushesNothing(t *testing.T) {
	s := newOverSSH(t)

	command := exec.Command("ssh", "-F", "none", "-p", fmt.Sprint(s.address.Port), "-i", s.key, "-o", "BatchMode=yes",
		"-o", "UserKnownHostsFile="+s.known, "git@127.0.0.1", "git-receive-pack '/team/platform.git'")
	if out, err := command.CombinedOutput(); err == nil || !strings.Contains(string(out), "the deploy key reads") {
		t.Errorf("%v: %s", err, out)
	}
}
