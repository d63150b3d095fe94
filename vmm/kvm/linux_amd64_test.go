package kvm

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/vmm"
	"github.com/stilehq/stile/vmm/virtio"
	"github.com/stilehq/stile/vmm/virtio/rng"
	"github.com/stilehq/stile/vmm/virtio/vsock"
)

// The guest's own view of a machine, and what the boot cost.
func TestBoot(t *testing.T) {
	needKVM(t)
	leaksNothing(t)
	disk := memfd(t)
	block := append([]byte("from the host"), make([]byte, 4096-13)...)
	if err := disk.Truncate(8 << 20); err != nil {
		t.Fatal(err)
	}
	if _, err := disk.WriteAt(block, 4096); err != nil {
		t.Fatal(err)
	}
	g := startLinux(t, vmm.Config{Disk: disk, Cmdline: []string{"some.parameter=1"}}, "report,disk")
	if err := g.wait(); err != nil {
		t.Error(err)
	}
	lines := strings.Split(g.output(), "\n")
	for _, want := range []string{
		"online: 0", "cores: 0", "threads: 0",
		"clock: kvm-clock", "timer: lapic-deadline", // nothing was calibrated
		"driver: virtio_console", "driver: virtio_blk", "driver: virtio_rng", "driver: virtio_balloon",
		"parameter: some.parameter=1",
		"read: from the host",
	} {
		if !slices.Contains(lines, want) {
			t.Errorf("no line %q", want)
		}
	}
	if _, err := disk.ReadAt(block, 8192); err != nil || !bytes.HasPrefix(block, []byte("from the guest")) {
		t.Errorf("on the disk is %q, %v", block[:14], err)
	}
	s := g.Stats()
	logStats(t, s)
	// Four devices: their set-up is all.
	if n := s.Exits["pio"] + s.Exits["mmio"]; n > 140 {
		t.Errorf("%d exits, more than 140", n)
	}
	for r := range s.MMIO {
		if !r.Write {
			t.Errorf("a read of register %#x of %s exits", r.Register, r.Device)
		}
	}
	if t.Failed() {
		t.Log(g.output())
	}
}

// logStats prints what exits there were, the most frequent first.
func logStats(t *testing.T, s Stats) {
	t.Helper()
	t.Logf("%d exits: %v", s.Total(), s.Exits)
	devices := make(map[string]uint64)
	for r, n := range s.MMIO {
		devices[r.Device] += n
	}
	t.Logf("registers by device: %v", devices)
	var ports []string
	for p, n := range s.PIO {
		ports = append(ports, fmt.Sprintf("%6d port %#x, write %v", n, p.Port, p.Write))
	}
	slices.Sort(ports)
	for _, p := range slices.Backward(ports) {
		t.Log(p)
	}
}

func TestSMP(t *testing.T) {
	needKVM(t)
	for _, cpus := range []int{2, 3} {
		t.Run(strconv.Itoa(cpus), func(t *testing.T) {
			leaksNothing(t)
			g := startLinux(t, vmm.Config{CPUs: cpus}, "report,each-cpu")
			if err := g.wait(); err != nil {
				t.Error(err)
			}
			lines := strings.Split(g.output(), "\n")
			all := fmt.Sprintf("0-%d", cpus-1)
			for _, want := range []string{"online: " + all, "cores: " + all, "threads: 0", fmt.Sprint("ran on: ", cpus)} {
				if !slices.Contains(lines, want) {
					t.Errorf("no line %q", want)
				}
			}
			logStats(t, g.Stats())
			if t.Failed() {
				t.Log(g.output())
			}
		})
	}
}

// Memory beyond the gap is there, and costs nothing while nobody touches it.
func TestMemory(t *testing.T) {
	needKVM(t)
	leaksNothing(t)
	g := startLinux(t, vmm.Config{Memory: 5 << 30}, "report")
	if err := g.wait(); err != nil {
		t.Error(err)
	}
	_, after, _ := strings.Cut(g.output(), "memory: ")
	kib, _, _ := strings.Cut(after, " kB")
	if n, _ := strconv.Atoi(kib); n < 4800<<10 || n > 5<<20 {
		t.Errorf("the guest has %q KiB:\n%s", kib, g.output())
	}
}

func TestPause(t *testing.T) {
	needKVM(t)
	leaksNothing(t)
	g := startLinux(t, vmm.Config{CPUs: 2}, "tick")
	g.waitOutput("tick 3\n")
	for range 5 {
		if err := g.Pause(); err != nil {
			t.Fatal(err)
		}
		if err := g.Pause(); err != nil {
			t.Errorf("Pause of a paused machine: %v", err)
		}
		before, exits, switches := g.output(), g.Stats(), contextSwitches(t)
		time.Sleep(200 * time.Millisecond)
		if n := contextSwitches(t) - switches; n > 500 {
			t.Errorf("%d context switches while the machine is paused", n)
		}
		if after := g.output(); after != before {
			t.Fatalf("the guest prints while it is paused: %q", after[len(before):])
		}
		if s := g.Stats(); s.Total() != exits.Total() {
			t.Fatalf("exits of a paused machine: %v, %v before", s.Exits, exits.Exits)
		}
		if err := g.Resume(); err != nil {
			t.Fatal(err)
		}
		if err := g.Resume(); err != nil {
			t.Errorf("Resume of a running machine: %v", err)
		}
		i := strings.LastIndex(before, "tick ")
		n, _, _ := strings.Cut(before[i+5:], "\n")
		last, _ := strconv.Atoi(n)
		g.waitOutput(fmt.Sprintf("tick %d\n", last+3))
	}
	if err := g.Pause(); err != nil {
		t.Fatal(err)
	}
	if err := g.Kill(); err != nil {
		t.Errorf("Kill of a paused machine: %v", err)
	}
	if out := g.output(); strings.Contains(out, "stall") || strings.Contains(out, "lockup") {
		t.Errorf("the guest took the pause for a hang of its own:\n%s", out)
	}
}

// contextSwitches is how often a thread of this process went to sleep.
func contextSwitches(t *testing.T) int64 {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return u.Nvcsw
}

// A machine may be paused at any moment of its boot, and from several sides.
func TestPauseBoot(t *testing.T) {
	needKVM(t)
	leaksNothing(t)
	g := startLinux(t, vmm.Config{CPUs: 2}, "report")
	paused := 0
	for {
		if err := g.Pause(); err == ErrEnded {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		paused++
		if err := g.Resume(); err != nil && err != ErrEnded {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Millisecond)
	}
	if err := g.wait(); err != nil || !strings.Contains(g.output(), "online: 0-1\n") {
		t.Errorf("after %d pauses: %v\n%s", paused, err, g.output())
	}
	if paused < 5 {
		t.Errorf("%d pauses", paused)
	}
	t.Logf("%d pauses", paused)
}

// A device of the caller's moves bytes by kicks and interrupts alone, through
// pauses, and loses none.
func TestDevice(t *testing.T) {
	needKVM(t)
	leaksNothing(t)
	dev := vsock.New(42)
	defer dev.Close()
	g := startLinux(t, vmm.Config{CPUs: 2, Devices: []virtio.Device{dev}}, "echo")
	g.waitOutput("listening\n")
	c, err := dev.Dial(t.Context(), 1000)
	if err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(patience))
	before := g.Stats()

	const size = 4 << 20
	sent, got := sha256.New(), sha256.New()
	var writing sync.WaitGroup
	writing.Go(func() {
		b := make([]byte, 32<<10)
		for i := 0; i < size; i += len(b) {
			for j := range b {
				b[j] = byte((i + j) * 131 >> 7)
			}
			sent.Write(b)
			if _, err := c.Write(b); err != nil {
				t.Error(err)
				return
			}
		}
		c.CloseWrite()
	})
	stop, pausing := make(chan struct{}), sync.WaitGroup{}
	pauses := 0
	pausing.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
			if err := errors.Join(g.Pause(), g.Resume()); err != nil {
				t.Error(err)
				return
			}
			pauses++
		}
	})
	n, err := io.Copy(got, c)
	close(stop)
	pausing.Wait()
	writing.Wait()
	if n != size || err != nil || !bytes.Equal(sent.Sum(nil), got.Sum(nil)) {
		t.Errorf("of %d bytes %d came back, %v", size, n, err)
	}
	after := g.Stats()
	for r, n := range after.MMIO {
		if n != before.MMIO[r] {
			t.Errorf("%d exits for register %#x of %s", n-before.MMIO[r], r.Register, r.Device)
		}
	}
	t.Logf("%d bytes both ways, %d pauses; exits %v before, %v after", n, pauses, before.Exits, after.Exits)
	c.Close()
	if err := g.Kill(); err != nil {
		t.Error(err)
	}
}

// A power cut, whatever the guest is doing.
func TestKill(t *testing.T) {
	needKVM(t)
	leaksNothing(t)
	g := startLinux(t, vmm.Config{CPUs: 2}, "spin")
	g.waitOutput("spinning\n")
	if err := g.Kill(); err != nil {
		t.Error(err)
	}
	for i := range 6 {
		g := startLinux(t, vmm.Config{CPUs: 2}, "report")
		time.Sleep(time.Duration(i) * 60 * time.Millisecond)
		if err := g.Kill(); err != nil {
			t.Error(err)
		}
		if err := g.Wait(); err != nil {
			t.Error(err)
		}
	}
}

// A kernel that restarts by triple fault dies; one that panics asks for its end.
func TestLinuxEnds(t *testing.T) {
	needKVM(t)
	leaksNothing(t)
	g := startLinux(t, vmm.Config{Cmdline: []string{"reboot=t"}}, "nothing")
	if err := g.wait(); err == nil || !strings.Contains(err.Error(), "triple fault") {
		t.Errorf("triple fault: %v", err)
	}
	g = startGuest(t, vmm.Config{Kernel: linux(t)}, Engine{}) // no init
	if err := g.wait(); err != nil || !strings.Contains(g.output(), "Kernel panic") {
		t.Errorf("panic: %v, %s", err, g.output())
	}
	// The same before there is a console.
	g = startGuest(t, vmm.Config{Kernel: linux(t), Cmdline: []string{"initcall_blacklist=virtio_console_init"}}, Engine{})
	if err := g.wait(); err != nil || strings.Count(g.output(), "Kernel panic") != 1 {
		t.Errorf("panic without a console: %v, %s", err, g.output())
	}
	logStats(t, g.Stats())
}

func TestStartErrors(t *testing.T) {
	needKVM(t)
	leaksNothing(t)
	good := rawKernel(t, code{}.end())
	text := memfd(t)
	io.WriteString(text, "no kernel")
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	many := make([]virtio.Device, len(deviceGSIs))
	for i := range many {
		many[i] = rng.New()
	}
	for _, c := range []struct {
		name, want string
		cfg        vmm.Config
		kvm        *os.File
	}{
		{"no vCPU", "0 vCPUs", vmm.Config{CPUs: 0, Memory: 2 << 20, Kernel: good}, nil},
		{"many vCPUs", "255 vCPUs", vmm.Config{CPUs: 255, Memory: 2 << 20, Kernel: good}, nil},
		{"no memory", "a multiple of 2 MiB", vmm.Config{CPUs: 1, Kernel: good}, nil},
		{"odd memory", "a multiple of 2 MiB", vmm.Config{CPUs: 1, Memory: 3 << 20, Kernel: good}, nil},
		{"too much memory", "a multiple of 2 MiB", vmm.Config{CPUs: 1, Memory: 1 << 50, Kernel: good}, nil},
		{"no kernel", "not an ELF image", vmm.Config{CPUs: 1, Memory: 2 << 20, Kernel: text}, nil},
		{"large initramfs", "does not fit", vmm.Config{CPUs: 1, Memory: 2 << 20, Kernel: good, Initramfs: linux(t)}, nil},
		{"many devices", "at most", vmm.Config{CPUs: 1, Memory: 2 << 20, Kernel: good, Devices: many}, nil},
		{"no KVM", "KVM_GET_API_VERSION", vmm.Config{CPUs: 1, Memory: 2 << 20, Kernel: good}, null},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := Engine{KVM: c.kvm}
			m, err := e.Start(t.Context(), &c.cfg)
			if err == nil {
				m.Kill()
			}
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %v, want %q in a line", err, c.want)
			}
		})
	}
}
