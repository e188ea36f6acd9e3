// The peer on Go's net/http: the same body for every request.
package main

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
)

const body = "Hello, world!\n"

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	// The driver waits for this line; the queue of the socket is open already.
	fmt.Println("listening on", listener.Addr())
	log.Fatal(http.Serve(listener, http.HandlerFunc(hello)))
}

func hello(writer http.ResponseWriter, _ *http.Request) {
	// Said here so that net/http does not have to guess it from the body.
	writer.Header().Set("Content-Type", "text/plain; charset=utf-8")
	io.WriteString(writer, body)
}
