// The peer that restarts as the article "Gracefully restarting a GoLang web
// server" describes it, whose design heirloom began from.
//
// SIGHUP opens a UNIX socket and starts a child that inherits the listening
// socket as descriptor 3. The child asks on the UNIX socket for the listener
// (get_listener), is told which descriptor it is, and serves; as soon as that is
// said, the parent shuts its server down. A child that does not ask in time
// changes nothing. Whether one that has asked serves is not looked at.
//
// In one point this is what the article says rather than what its listing does:
// when the time for the child is up, that uses the connection it has not got, and
// the parent would crash.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"heirloom-bench-peer-servers/peer"
)

// How long a child may take to ask for the listener.
const childTime = 5 * time.Second

// The question, and what the child is answered.
const getListener = "get_listener"

type listenerInfo struct {
	Address    string  `json:"address"`
	Descriptor uintptr `json:"descriptor"`
}

// The first descriptor after the standard ones.
const inherited = 3

func main() {
	self := peer.FromEnvironment()
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGTERM)
	listener, err := obtain(self.Address)
	if err != nil {
		log.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(peer.Answer)}
	go func() {
		if err := server.Serve(listener); err != http.ErrServerClosed {
			log.Fatal(err)
		}
	}()
	self.Serving()

	for received := range signals {
		if received == syscall.SIGTERM {
			break
		}
		err := restart(self.Address, listener)
		if err == nil {
			break
		}
		log.Print("restart failed: ", err)
	}
	late, cancel := context.WithTimeout(context.Background(), peer.Drain)
	defer cancel()
	if err := server.Shutdown(late); err != nil {
		// What is still open is cut off.
		log.Print(err)
	}
}

// The listener of the parent, if there is one who answers, or a new one.
func obtain(address string) (*net.TCPListener, error) {
	if listener, err := inherit(address); err == nil {
		return listener, nil
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	return listener.(*net.TCPListener), nil
}

// The child's end of a restart.
func inherit(address string) (*net.TCPListener, error) {
	connection, err := net.Dial("unix", socketPath(address))
	if err != nil {
		return nil, err
	}
	defer connection.Close()
	if _, err := io.WriteString(connection, getListener); err != nil {
		return nil, err
	}
	var info listenerInfo
	if err := json.NewDecoder(connection).Decode(&info); err != nil {
		return nil, err
	}
	if info.Address != address {
		return nil, fmt.Errorf("the parent listens on %s", info.Address)
	}
	file := os.NewFile(info.Descriptor, "listener")
	// The listener has a duplicate.
	defer file.Close()
	listener, err := net.FileListener(file)
	if err != nil {
		return nil, err
	}
	return listener.(*net.TCPListener), nil
}

// The parent's end of a restart. Signals that come meanwhile wait.
func restart(address string, listener *net.TCPListener) error {
	path := socketPath(address)
	// A parent that was killed in the middle of a restart has left its own.
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	desk, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return err
	}
	defer desk.Close()
	if err := fork(listener); err != nil {
		return err
	}

	deadline := time.Now().Add(childTime)
	desk.SetDeadline(deadline)
	connection, err := desk.Accept()
	if err != nil {
		return err
	}
	defer connection.Close()
	connection.SetDeadline(deadline)
	question := make([]byte, len(getListener))
	if _, err := io.ReadFull(connection, question); err != nil {
		return err
	}
	if string(question) != getListener {
		return fmt.Errorf("the child asks for %q", question)
	}
	return json.NewEncoder(connection).Encode(listenerInfo{address, inherited})
}

func fork(listener *net.TCPListener) error {
	file, err := listener.File()
	if err != nil {
		return err
	}
	defer file.Close()
	executable, err := os.Executable()
	if err != nil {
		return err
	}
	// This makes the socket blocking, in the parent too, until the child has
	// made it non-blocking again; a parent that accepts meanwhile may take a
	// connection that it does not serve any more. The article passes it so.
	child, err := os.StartProcess(executable, []string{executable}, &os.ProcAttr{
		Dir:   filepath.Dir(executable),
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr, file},
	})
	if err != nil {
		return err
	}
	// A child that fails should not stay as a zombie. That its end is not taken
	// for an answer is part of the design: the parent waits for the question.
	go child.Wait()
	return nil
}

// One for each port, so that several services do not meet.
func socketPath(address string) string {
	_, port, _ := net.SplitHostPort(address)
	return filepath.Join(os.TempDir(), "heirloom-peer-seed-"+port+".sock")
}
