// interop-go: grpc-go's client and server of undermesh.interop.v1 (see ../README.md).
package main

import (
	"flag"
	"fmt"
	"os"
)

// Both sides accept messages up to this; the default of 4 MiB is what large messages must pass.
const largest = 80 << 20

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: interop-go client|server …")
		os.Exit(2)
	}
	flags := flag.NewFlagSet(os.Args[1], flag.ExitOnError)
	target := flags.String("target", "127.0.0.1:50051", "host:port to call")
	count := flags.Int("count", 100, "unary calls that are counted by pod")
	large := flags.Int("large", 1<<20, "bytes of the largest message")
	port := flags.Int("port", 50051, "port to serve; 0 takes a free one")
	name := flags.String("name", "go", "the name that replies carry")
	bind := flags.String("bind", "", "address to serve; empty is all")
	_ = flags.Parse(os.Args[2:])
	var err error
	switch os.Args[1] {
	case "client":
		var good bool
		if good, err = call(*target, *count, *large); err == nil && !good {
			os.Exit(1)
		}
	case "server":
		err = serve(*bind, *port, *name)
	default:
		err = fmt.Errorf("unknown command %q", os.Args[1])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
