// The peer on Go's net/http, without restarts: whoever restarts the service
// stops it with SIGTERM, waits for its end and starts it again.
package main

import (
	"context"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"

	"heirloom-bench-peer-servers/peer"
)

func main() {
	self := peer.FromEnvironment()
	terminate := make(chan os.Signal, 1)
	signal.Notify(terminate, syscall.SIGTERM)
	listener, err := net.Listen("tcp", self.Address)
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

	<-terminate
	late, cancel := context.WithTimeout(context.Background(), peer.Drain)
	defer cancel()
	if err := server.Shutdown(late); err != nil {
		// What is still open is cut off.
		log.Print(err)
	}
}
