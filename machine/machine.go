// Package machine runs one machine: the supervisor behind `stile machine NAME`,
// which serves the machine's socket, starts QEMU and the vmm process (package
// vmmproc), and ends when nothing has needed the machine for a while; and the
// client side of that socket.
//
// The socket takes two kinds of first message (package wire): Run, from a shim,
// whose connection goes on to the vmm process; and Call, from the command line,
// answered here.
package machine

import (
	"errors"
	"time"

	"github.com/stilehq/stile/vmm"
)

// ErrNotRunning says that no machine of the distro runs.
var ErrNotRunning = errors.New("not running")

// Names of the calls that a supervisor answers.
const (
	callReady   = "ready"   // answered when the guest is up, or cannot come up
	callStatus  = "status"  // statusRequest → Status
	callStop    = "stop"    // stopRequest
	callShare   = "share"   // guest.Share
	callUnshare = "unshare" // guest.Share
	callLinks   = "links"   // []string: host commands on the guest's PATH
)

type statusRequest struct {
	Counts bool `json:"counts"`
}

type stopRequest struct {
	Force bool `json:"force"`
}

// Status is what a running machine says of itself.
type Status struct {
	Distro   string    `json:"distro"`
	PID      int       `json:"pid"`       // of the supervisor
	Engine   string    `json:"engine"`    // "kvm", "qemu"
	Why      string    `json:"engineWhy"` // why that engine
	Version  string    `json:"version"`   // of the stile that runs it
	Kernel   string    `json:"kernel"`    // uname -r in the guest; "" while it starts
	Since    time.Time `json:"since"`
	Ready    bool      `json:"ready"`
	Sessions int       `json:"sessions"` // commands that run
	Left     []string  `json:"left"`     // processes that outlived their command
	Full     bool      `json:"full"`     // the host's disk is full: the guest waits for room
	IdleIn   float64   `json:"idleIn"`   // seconds until it ends by itself; 0: something keeps it alive
	Memory   uint64    `json:"memory"`   // bytes of guest memory
	Resident uint64    `json:"resident"` // bytes of host memory that its processes hold, guest memory included
	// Reclaimed is how many bytes the guest has taken out of its page cache, as
	// nothing needed the machine.
	Reclaimed uint64 `json:"reclaimed"`

	// Where they were asked for:
	Counts    *vmm.Counts `json:"counts,omitempty"`
	Processes []Process   `json:"processes,omitempty"` // the supervisor and the vmm process
}

// A Process is what one of a machine's processes has open and under way. At rest
// the numbers of goroutines and descriptors are the same, however many commands
// have run; Go keeps the threads that it has once needed.
type Process struct {
	Name        string `json:"name"`
	PID         int    `json:"pid"`
	Goroutines  int    `json:"goroutines"`
	Threads     int    `json:"threads"`
	Descriptors int    `json:"descriptors"`
}
