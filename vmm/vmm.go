// Package vmm is one virtual machine as the rest of stile sees it: a Config goes
// into an Engine, a Machine comes out. The engines are in folders of their own:
// vmm/kvm, and vmm/qemu (QEMU microvm) for hosts without a usable KVM.
package vmm

import (
	"context"
	"os"

	"github.com/stilehq/stile/vmm/virtio"
)

// A Config is what an Engine makes a machine of.
type Config struct {
	CPUs   int    // number of vCPUs, at least 1
	Memory uint64 // bytes of guest memory, a multiple of 2 MiB

	Kernel    *os.File // uncompressed vmlinux with a PVH entry
	Initramfs *os.File // newc cpio archive, not compressed
	Cmdline   []string // kernel parameters, besides the engine's own

	// Disk is the raw image of the root disk, which the guest sees as
	// /dev/vda. It stays open, and so its lock held, while the machine runs.
	Disk *os.File

	// Stalled, if there is one, is told when the guest's writes begin to wait for
	// room on the disk that Disk is on, and when they go on. It may be called
	// from any goroutine, and does not block.
	Stalled func(bool)

	// Console receives what the guest's kernel and guestinit print.
	Console *os.File

	// Devices are served by the vmm process whatever the engine.
	Devices []virtio.Device
}

// An Engine runs machines. Start returns when the machine's vCPUs run; ctx
// bounds that alone.
type Engine interface {
	// Name is what the user calls it: "qemu", "kvm".
	Name() string
	Start(ctx context.Context, cfg *Config) (Machine, error)
}

// A Machine is a running virtual machine.
type Machine interface {
	// Wait returns when the machine has ended: nil after Kill and after a
	// restart by the guest, an error that says why otherwise. A restart is how a
	// guest ends in order, and how it ends after a panic: whoever asked for the
	// first can tell.
	Wait() error
	// Kill ends the machine at once, as a power cut would. Wait returns soon
	// after it. It is idempotent.
	Kill() error
	// Counts is what the machine has done so far. It may be called at any
	// time.
	Counts() Counts
}

// Counts is a machine's work in numbers that carry no noise.
type Counts struct {
	// Exits are how often vCPUs came back from the hardware, by kind; nil with
	// an engine that has none, or whose are another process's.
	Exits map[string]uint64 `json:"exits,omitempty"`
	// Accesses are those of the exits that were made for a port or a register,
	// the most frequent first.
	Accesses []Access `json:"accesses,omitempty"`
	// Devices are those that the vmm process serves.
	Devices []DeviceCount `json:"devices"`
	// Goroutines are how many the process that counts has now.
	Goroutines int `json:"goroutines"`
}

// An Access is a kind of access that took an exit.
type Access struct {
	To    string `json:"to"` // "port 0x64", "virtio-blk 0x70" (the register), "no device"
	Write bool   `json:"write"`
	Count uint64 `json:"count"`
}

// Verb is "read" or "write".
func (a Access) Verb() string {
	if a.Write {
		return "write"
	}
	return "read"
}

// A DeviceCount is the work of one device, by queue.
type DeviceCount struct {
	Name   string         `json:"name"` // "virtio-vsock"
	Queues []virtio.Count `json:"queues"`
}
