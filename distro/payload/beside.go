//go:build !dist

package payload

import (
	"github.com/stilehq/stile/distro"
	"github.com/stilehq/stile/kernel"
)

// Embedded says whether this program has all parts inside.
const Embedded = false

func shim() (*part, error)      { return beside("shim") }
func guestInit() (*part, error) { return beside("guestinit") }

func kernelPath(dirs distro.Dirs) (string, error) { return kernel.Find(dirs.KernelCache()) }
