// The peer on Go's net/http: the same body for every request, but on the paths
// that the Rust servers know, too.
package main

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
)

const body = "Hello, world!\n"

const largeBytes = 1024 * 1024

var chunk = bytes.Repeat([]byte("x"), 16*1024)

func main() {
	network, address := "tcp", "127.0.0.1:0"
	if len(os.Args) > 1 {
		address = os.Args[1]
	}
	announced := ""
	if path, isUnix := strings.CutPrefix(address, "unix:"); isUnix {
		network, address, announced = "unix", path, "unix:"
	}
	listener, err := net.Listen(network, address)
	if err != nil {
		log.Fatal(err)
	}
	// The driver waits for this line; the queue of the socket is open already.
	fmt.Printf("listening on %s%s\n", announced, listener.Addr())
	log.Fatal(http.Serve(listener, http.HandlerFunc(answer)))
}

func answer(writer http.ResponseWriter, request *http.Request) {
	// Said here so that net/http does not have to guess it from the body.
	writer.Header().Set("Content-Type", "text/plain; charset=utf-8")
	switch request.URL.Path {
	case "/echo":
		// All of it first: net/http reads no more once the response has begun.
		if body, err := io.ReadAll(request.Body); err == nil {
			writer.Write(body)
		}
	case "/large":
		for sent := 0; sent < largeBytes; sent += len(chunk) {
			writer.Write(chunk)
		}
	default:
		io.WriteString(writer, body)
	}
}
