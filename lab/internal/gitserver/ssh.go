package gitserver

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/crypto/ssh"
)

// SSH serves the repository over SSH to who has the deploy key.
type SSH struct {
	Repository *Server
	Dir        string // of the bare repository
	// HostKey is the server's own; a client knows its public half.
	HostKey ssh.Signer
	// DeployKey is the public key that may read now; nil: nobody.
	DeployKey func() ssh.PublicKey
	Log       io.Writer
}

// uploadPack is the only command that a deploy key which reads may run (git-upload-pack, "git fetch-pack").
const uploadPack = "git-upload-pack "

// Serve answers connections until the listener is closed.
func (s *SSH) Serve(listener net.Listener) error {
	config := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if known := s.DeployKey(); known == nil || !bytes.Equal(known.Marshal(), key.Marshal()) {
			return nil, errors.New("not the deploy key of this repository")
		}

		return &ssh.Permissions{}, nil
	}}
	config.AddHostKey(s.HostKey)

	for {
		connection, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}

		if err != nil {
			return err
		}

		go s.answer(connection, config)
	}
}

func (s *SSH) answer(connection net.Conn, config *ssh.ServerConfig) {
	defer connection.Close()

	session, channels, requests, err := ssh.NewServerConn(connection, config)
	if err != nil {
		fmt.Fprintf(log(s.Log), "SSH from %s: %v\n", connection.RemoteAddr(), err)

		return
	}
	defer session.Close()

	go ssh.DiscardRequests(requests)

	for offered := range channels {
		if offered.ChannelType() != "session" {
			_ = offered.Reject(ssh.UnknownChannelType, "this server gives sessions") // the client may be gone

			continue
		}

		channel, asked, err := offered.Accept()
		if err != nil {
			return
		}

		go s.session(channel, asked)
	}
}

// session runs what the client asks for, once.
func (s *SSH) session(channel ssh.Channel, asked <-chan *ssh.Request) {
	defer channel.Close()

	for request := range asked {
		if request.Type != "exec" {
			// Git sets variables, such as the protocol's version: one that is refused has no effect.
			_ = request.Reply(false, nil) // the client may be gone

			continue
		}

		var command struct{ Line string }
		if err := ssh.Unmarshal(request.Payload, &command); err != nil {
			_ = request.Reply(false, nil) // the client may be gone

			return
		}

		_ = request.Reply(true, nil) // the client may be gone
		status := s.run(channel, command.Line)
		_, _ = channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{status})) // as above

		return
	}
}

func (s *SSH) run(channel ssh.Channel, line string) uint32 {
	quoted, reads := strings.CutPrefix(line, uploadPack)
	path := strings.Trim(quoted, "'")
	asked := "/" + strings.TrimSuffix(strings.Trim(path, "/"), ".git")

	switch {
	case !reads:
		fmt.Fprintln(channel.Stderr(), "the deploy key reads, and the lab's repository is made from the project's folders: change them")

		return 1
	case asked != s.Repository.path:
		fmt.Fprintln(channel.Stderr(), "the lab serves one repository: "+s.Repository.path)

		return 1
	}

	command := exec.Command("git", "upload-pack", "--strict", s.Dir)
	command.Env = append(environment(s.Dir), "PATH="+os.Getenv("PATH"))
	command.Stdin, command.Stdout, command.Stderr = channel, channel, channel.Stderr()

	if err := command.Run(); err != nil {
		fmt.Fprintln(log(s.Log), "git upload-pack:", err)

		return 1
	}

	return 0
}
