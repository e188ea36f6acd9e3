// Package peer is what the servers in Go have in common: their configuration,
// the faults they can be told to have, and what they answer.
package peer

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// Drain is how long a process may go on serving what is open when it has to go.
const Drain = 5 * time.Second

// How long a process that is to die serves before.
const life = 50 * time.Millisecond

// Peer is what this process was told.
type Peer struct {
	Address string
	dies    bool
}

// FromEnvironment reads the environment, which is the same for all generations,
// and the file with the fault, which is not: it says what befalls a process
// that is started now. It does not return in a process that is to crash, or to
// hang, at its start.
func FromEnvironment() Peer {
	// All servers have one thread for their work.
	runtime.GOMAXPROCS(1)
	peer := Peer{Address: os.Getenv("LISTEN")}
	if peer.Address == "" {
		log.Fatal("LISTEN is not set")
	}
	// A file that is not there is no fault.
	fault, _ := os.ReadFile(os.Getenv("FAULT_FILE"))
	switch word := strings.TrimSpace(string(fault)); word {
	case "":
	case "crash":
		os.Exit(1)
	case "hang":
		// Not an empty select, which the runtime would call a deadlock.
		for {
			time.Sleep(time.Hour)
		}
	case "die":
		peer.dies = true
	default:
		log.Fatalf("there is no fault %q", word)
	}
	return peer
}

// Serving says that this process accepts connections from now on, and starts
// the end of one that is to die.
func (peer Peer) Serving() {
	fmt.Println("listening")
	if peer.dies {
		time.AfterFunc(life, func() { os.Exit(1) })
	}
}

// Answer tells who has answered which request.
func Answer(writer http.ResponseWriter, request *http.Request) {
	if _, err := io.Copy(io.Discard, request.Body); err != nil {
		// The client has gone, or has not said what it promised to say.
		panic(http.ErrAbortHandler)
	}
	body := fmt.Sprintf("%d %s\n", os.Getpid(), request.URL.Query().Get("id"))
	writer.Header().Set("Content-Type", "text/plain")
	writer.Header().Set("Content-Length", strconv.Itoa(len(body)))
	io.WriteString(writer, body)
}
