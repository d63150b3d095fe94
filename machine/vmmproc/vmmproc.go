// Package vmmproc is the vmm process of a machine (`stile vmm`): it serves the
// guest's devices and relays sessions between shims and guestinit. The
// supervisor starts it and hands it everything that it needs as descriptors;
// it executes nothing, and opens nothing outside the shares. The first is made
// sure of by a filter of system calls (confine), which also takes sockets,
// signals to others and much else from whoever takes the process over by way of
// its guest.
package vmmproc

import (
	"encoding/json"

	"github.com/stilehq/stile/interop/guest"
	"github.com/stilehq/stile/interop/wire"
)

// Command is the subcommand of stile that calls Main.
const Command = "vmm"

// The descriptors that the vmm process is started with. The engine's sockets
// follow, in the engine's order, and the tar stream of an import after them.
const (
	serveFD   = 3 // sessions from the supervisor, events to it
	callsFD   = 4 // calls of the supervisor
	streamsFD = 5 // connections for the guest's host commands, from the supervisor
	engineFD  = 6
)

// The engine's files of the kvm engine, in order. The qemu engine's are the
// sockets of its devices.
const (
	FileKVM = iota
	FileKernel
	FileInitramfs
	FileDisk
	FileConsole
	kvmFiles
)

// The calls that the vmm process answers. Share, Unshare, Processes, Zone,
// Reclaim and Shutdown ask the guest: the supervisor bounds them.
const (
	CallStart     = "start"     // Config → Started: serve the devices; the first call
	CallShare     = "share"     // guest.Share
	CallUnshare   = "unshare"   // guest.Share
	CallProcesses = "processes" // → guest.Processes
	CallShutdown  = "shutdown"  // the guest ends itself in order
	CallZone      = "zone"      // guest.Zone
	CallImport    = "import"    // the guest unpacks the tar stream
	CallReclaim   = "reclaim"   // → guest.Reclaimed
	CallCounts    = "counts"    // → vmm.Counts
	CallNotice    = "notice"    // wire.Error: a line for whose commands run
	CallLinks     = "links"     // []string: host commands on the guest's PATH
)

// Config is what a vmm process is told first.
type Config struct {
	Engine string       `json:"engine"` // "kvm" or "qemu"
	CPUs   int          `json:"cpus"`   // vCPUs, for the kvm engine
	Memory uint64       `json:"memory"` // bytes of guest memory, for the kvm engine
	Guest  guest.Config `json:"guest"`
	Hidden []string     `json:"hidden"` // folders that no share shows
	Links  string       `json:"links"`  // folder of the links, which leaves PATH on the way
	Input  bool         `json:"input"`  // the tar stream of an import was passed
}

// Started says that the devices are served.
type Started struct {
	Unconfined string `json:"unconfined"` // why the process could not be confined; "": it is
}

// The events that the vmm process reports to the supervisor.
const (
	EventReady    = "ready"    // Ready
	EventSessions = "sessions" // int: how many commands run now
	EventStalled  = "stalled"  // bool: whether the guest waits for room for its disk; of the kvm engine
)

// Ready says that the guest is up, or why it cannot come up.
type Ready struct {
	Kernel string      `json:"kernel"`
	Err    *wire.Error `json:"err"`
}

// AppendEvent appends the message of an event.
func appendEvent(dst []byte, name string, body any) []byte {
	b, err := json.Marshal(body)
	if err != nil {
		panic(err) // types of this file, which JSON can hold
	}
	m := wire.Call{Name: name, Body: b}
	return wire.AppendMessage(dst, wire.TypeEvent, m.Append(nil))
}

// ParseEvent reads the payload of a wire.TypeEvent: the body of the event name,
// of the type that stands behind the event's constant.
func ParseEvent(payload []byte) (name string, body []byte, err error) {
	var m wire.Call
	err = m.Parse(payload)
	return m.Name, m.Body, err
}
