// Command stile runs commands of Linux guests from the host's shell as if they
// were local, and lets guests call the host's. See docs/design.md.
package main

import (
	"os"

	"github.com/stilehq/stile/cli"
)

// version is set by the linker: see the Makefile.
var version = "unknown"

func main() { os.Exit(cli.Main(os.Args[1:], version)) }
