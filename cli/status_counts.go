package cli

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/stilehq/stile/distro"
	"github.com/stilehq/stile/vmm"
)

// mostAccesses bounds the kinds of exits that are listed; JSON has them all.
const mostAccesses = 10

// queueNames are the queues of the devices, in the specification's words, and
// what their chains are.
var queueNames = map[string][]string{
	"virtio-blk":     {"requests"},
	"virtio-console": {"input buffers", "output buffers"},
	"virtio-rng":     {"requests"},
	"virtio-balloon": {"inflated", "deflated", "pages reported"},
	"virtio-vsock":   {"packets to the guest", "packets from the guest", "events"},
	"virtio-fs":      {"urgent requests", "requests"},
}

// details are the lines of status -v.
func (e statusEntry) details() [][]string {
	rows := [][]string{
		{"  engine", e.Engine + ": " + e.Why},
		{"  stile", e.Version},
		{"  memory", fmt.Sprintf("%v of at most %v; %v reclaimed at rest", distro.Size(e.Resident), distro.Size(e.Memory), distro.Size(e.Reclaimed))},
	}
	if e.Counts == nil {
		return rows
	}
	if e.Counts.Exits != nil {
		rows = append(rows, []string{"  exits", exits(e.Counts.Exits)})
	}
	for i, a := range e.Counts.Accesses {
		if i == mostAccesses {
			rows = append(rows, []string{"", fmt.Sprintf("... and %d other kinds", len(e.Counts.Accesses)-i)})
			break
		}
		rows = append(rows, []string{"", fmt.Sprintf("%d %s %s", a.Count, a.Verb(), a.To)})
	}
	for _, p := range e.Processes {
		rows = append(rows, []string{"  " + p.Name, fmt.Sprintf("pid %d; %d goroutines, %d threads, %d descriptors", p.PID, p.Goroutines, p.Threads, p.Descriptors)})
	}
	for _, d := range e.Counts.Devices {
		rows = append(rows, []string{"  " + d.Name, work(d)})
	}
	return rows
}

// exits is the sum of exits and its parts, the largest first.
func exits(byKind map[string]uint64) string {
	var total uint64
	kinds := slices.SortedFunc(maps.Keys(byKind), func(a, b string) int {
		return cmp.Or(cmp.Compare(byKind[b], byKind[a]), cmp.Compare(a, b))
	})
	var parts []string
	for _, kind := range kinds {
		total += byKind[kind]
		parts = append(parts, fmt.Sprintf("%d %s", byKind[kind], kind))
	}
	return fmt.Sprintf("%d: %s", total, strings.Join(parts, ", "))
}

// work is what a device has done, queue by queue.
func work(d vmm.DeviceCount) string {
	var parts []string
	var calls uint64
	for i, q := range d.Queues {
		calls += q.Calls
		name := fmt.Sprintf("in queue %d", i)
		if names := queueNames[d.Name]; i < len(names) {
			name = names[i]
		}
		if q.Chains > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", q.Chains, name))
		}
	}
	if len(parts) == 0 {
		return "nothing yet"
	}
	return fmt.Sprintf("%s; %d interrupts", strings.Join(parts, ", "), calls)
}
