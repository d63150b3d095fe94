package vhostuser

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/vmm/boot"
	"github.com/stilehq/stile/vmm/virtio/vsock"
)

// TestQEMU runs a guest under QEMU's TCG with the vsock device served from
// here. It needs QEMU, and a kernel in STILE_TEST_KERNEL (a PVH vmlinux).
func TestQEMU(t *testing.T) {
	kernel := os.Getenv("STILE_TEST_KERNEL")
	if kernel == "" {
		t.Skip("STILE_TEST_KERNEL names no kernel")
	}
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Skip("QEMU is not installed")
	}
	g := startQEMU(t, qemu, kernel)
	t.Run("both ways", g.bothWays)
	t.Run("throughput", g.throughput)
	t.Run("speed", g.speed)
	t.Run("half-close", g.halfClose)
	t.Run("stalled reader", g.stalledReader)
	t.Run("guest reads no more", g.guestReadsNoMore)
	t.Run("refused", g.refused)
	t.Run("many", g.many)
	t.Run("round trip", g.roundTrip)
	g.end(t)
}

type qemuGuest struct {
	dev    *vsock.Device
	qemu   *exec.Cmd
	served chan error
	start  time.Time
}

func startQEMU(t *testing.T, qemu, kernel string) *qemuGuest {
	t.Helper()
	dir := t.TempDir()
	init := filepath.Join(dir, "init")
	build := exec.Command("go", "build", "-o", init, "./testdata/guest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the guest: %v\n%s", err, out)
	}
	body, err := os.ReadFile(init)
	if err != nil {
		t.Fatal(err)
	}
	var cpio bytes.Buffer
	boot.WriteInitramfs(&cpio, []boot.File{
		{Name: "dev", Mode: boot.TypeDir | 0o755},
		{Name: "dev/console", Mode: boot.TypeChar | 0o600, Major: 5, Minor: 1},
		{Name: "init", Mode: boot.TypeFile | 0o755, Body: body},
	})
	initrd := filepath.Join(dir, "initrd")
	if err := os.WriteFile(initrd, cpio.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	ours, theirs := socketpair(t)
	file, err := theirs.File()
	if err != nil {
		t.Fatal(err)
	}
	theirs.Close()

	g := &qemuGuest{dev: vsock.New(77), served: make(chan error, 1), start: time.Now()}
	g.qemu = exec.Command(qemu,
		"-M", "microvm,x-option-roms=off,acpi=off,rtc=on,memory-backend=mem", "-accel", "tcg", "-cpu", "max", "-m", "512M",
		"-object", "memory-backend-memfd,id=mem,size=512M,share=on",
		"-global", "virtio-mmio.force-legacy=false",
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio",
		"-chardev", "socket,id=vs,fd=3", "-device", "vhost-user-vsock-device,chardev=vs",
		"-kernel", kernel, "-initrd", initrd, "-append", "console=ttyS0 quiet panic=-1 reboot=t noapictimer")
	g.qemu.ExtraFiles = []*os.File{file}
	g.qemu.Stdout, g.qemu.Stderr = t.Output(), t.Output()
	l, err := g.dev.Listen(2000)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.qemu.Start(); err != nil {
		t.Fatal(err)
	}
	file.Close()
	t.Cleanup(func() { g.qemu.Process.Kill() })
	s := newServer(ours, g.dev)
	s.trace = func(m *message) {
		t.Logf("%v message %d, flags %#x, %d bytes, %d descriptors", time.Since(g.start), m.req, m.flags, len(m.payload), len(m.fds))
	}
	go func() {
		err := s.serve(context.Background())
		if err != nil {
			t.Logf("Serve: %v", err)
		}
		g.served <- err
		l.Close()
	}()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if b, err := io.ReadAll(c); string(b) != "ready" || err != nil {
		t.Fatalf("guest said %q, %v", b, err)
	}
	t.Logf("guest is up after %v", time.Since(g.start))
	return g
}

// end has the guest restart, which ends QEMU.
func (g *qemuGuest) end(t *testing.T) {
	c := g.dial(t, "x")
	defer c.Close()
	if err := <-g.served; err != nil {
		t.Errorf("Serve: %v", err)
	}
	if err := g.qemu.Wait(); err != nil {
		t.Errorf("QEMU: %v", err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, vsock.ErrReset) && err != io.EOF {
		t.Errorf("Read after the guest's end: %v", err)
	}
}

// dial connects to the guest and gives it a command.
func (g *qemuGuest) dial(t *testing.T, cmd string) *vsock.Conn {
	t.Helper()
	c, err := g.dev.Dial(t.Context(), 1000)
	if err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(time.Minute))
	if _, err := c.Write([]byte(cmd)); err != nil {
		t.Fatal(err)
	}
	return c
}

func (g *qemuGuest) bothWays(t *testing.T) {
	const size = 64 << 20
	c := g.dial(t, "e")
	defer c.Close()
	sent, got := sha256.New(), sha256.New()
	start := time.Now()
	go func() {
		b := make([]byte, 256<<10)
		for i := 0; i < size; i += len(b) {
			for j := range b {
				b[j] = byte((i + j) * 131 >> 7)
			}
			sent.Write(b)
			c.Write(b)
		}
		c.CloseWrite()
	}()
	n, err := io.Copy(got, c)
	if n != size || err != nil || !bytes.Equal(sent.Sum(nil), got.Sum(nil)) {
		t.Errorf("echo of %d bytes: %d came back, %v", size, n, err)
	}
	t.Logf("echo: %.0f MB/s each way", size/1e6/time.Since(start).Seconds())
}

func (g *qemuGuest) throughput(t *testing.T) {
	const size = 64 << 20
	c := g.dial(t, "h")
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(i * 131 >> 7)
	}
	start := time.Now()
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
	c.CloseWrite()
	sum, err := io.ReadAll(c)
	if want := sha256.Sum256(b); !bytes.Equal(sum, want[:]) || err != nil {
		t.Errorf("the guest got other bytes: %v", err)
	}
	c.Close()
	t.Logf("host to guest: %.0f MB/s (hashed there)", size/1e6/time.Since(start).Seconds())

	c = g.dial(t, "g"+string(binary.LittleEndian.AppendUint64(nil, size)))
	start = time.Now()
	b, err = io.ReadAll(c)
	if len(b) != size+32 || err != nil {
		t.Fatalf("read %d bytes, %v", len(b), err)
	}
	t.Logf("guest to host: %.0f MB/s (hashed there)", size/1e6/time.Since(start).Seconds())
	if want := sha256.Sum256(b[:size]); !bytes.Equal(b[size:], want[:]) {
		t.Error("the host got other bytes")
	}
	c.Close()
}

// speed prints throughput without work in the guest; it asserts nothing.
func (g *qemuGuest) speed(t *testing.T) {
	const size = 512 << 20
	c := g.dial(t, "n")
	b := make([]byte, 1<<20)
	start := time.Now()
	for range size / len(b) {
		if _, err := c.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	c.CloseWrite()
	if n, err := io.ReadAll(c); string(n) != strconv.Itoa(size) || err != nil {
		t.Errorf("the guest read %s bytes, %v", n, err)
	}
	c.Close()
	t.Logf("host to guest: %.0f MB/s", size/1e6/time.Since(start).Seconds())

	c = g.dial(t, "z"+string(binary.LittleEndian.AppendUint64(nil, size)))
	start = time.Now()
	var n int
	for {
		k, err := c.Read(b)
		n += k
		if err != nil {
			break
		}
	}
	t.Logf("guest to host: %.0f MB/s", float64(n)/1e6/time.Since(start).Seconds())
	c.Close()
}

func (g *qemuGuest) halfClose(t *testing.T) {
	c := g.dial(t, "h")
	defer c.Close()
	c.CloseWrite()
	b, err := io.ReadAll(c)
	if want := sha256.Sum256(nil); !bytes.Equal(b, want[:]) || err != nil {
		t.Errorf("read %x, %v", b, err)
	}
	select {
	case <-c.Done(): // the guest has closed
	case <-time.After(10 * time.Second):
		t.Error("not done")
	}
}

// stalledReader leaves a connection of each direction full, and expects another
// to be alive.
func (g *qemuGuest) stalledReader(t *testing.T) {
	full := g.dial(t, "w") // the guest writes and the host does not read
	deaf := g.dial(t, "r") // the host writes and the guest does not read
	defer full.Close()
	defer deaf.Close()
	deaf.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
	n, err := deaf.Write(make([]byte, 16<<20))
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Write to a deaf guest: %v", err)
	}
	t.Logf("the guest took %d bytes, the host %d", n, full.Buffered())
	if full.Buffered() < 64<<10 {
		t.Errorf("the guest could write only %d bytes", full.Buffered())
	}
	g.halfClose(t)
}

// guestReadsNoMore: what each side finds when the other stops reading.
func (g *qemuGuest) guestReadsNoMore(t *testing.T) {
	l, err := g.dev.Listen(2001)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := g.dial(t, "w")
	io.CopyN(io.Discard, c, 3<<20)
	c.CloseRead()
	report, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer report.Close()
	if b, err := io.ReadAll(report); string(b) != syscall.EPIPE.Error() {
		t.Errorf("the guest's write ended with %q, %v", b, err)
	}
	c.Close()

	c = g.dial(t, "h")
	defer c.Close()
	c.CloseWrite()
	<-c.PeerReadClosed() // the guest has read, and closed
	if _, err := c.Write([]byte{1}); err == nil {
		t.Error("Write after the guest closed")
	}
}

func (g *qemuGuest) refused(t *testing.T) {
	if _, err := g.dev.Dial(t.Context(), 999); !errors.Is(err, vsock.ErrRefused) {
		t.Errorf("Dial to a port without listener: %v", err)
	}
	c := g.dial(t, "d"+string(binary.LittleEndian.AppendUint32(nil, 4711)))
	defer c.Close()
	if b, _ := io.ReadAll(c); string(b) != syscall.ECONNRESET.Error()+" false" {
		t.Errorf("the guest's connect: %q", b)
	}
}

func (g *qemuGuest) many(t *testing.T) {
	const n = 300
	start := time.Now()
	var conns []*vsock.Conn
	for i := range n {
		c := g.dial(t, "e")
		defer c.Close()
		fmt.Fprintf(c, "connection %d", i)
		c.CloseWrite()
		conns = append(conns, c)
	}
	for i, c := range conns {
		if b, err := io.ReadAll(c); string(b) != fmt.Sprintf("connection %d", i) || err != nil {
			t.Fatalf("connection %d: %q, %v", i, b, err)
		}
	}
	t.Logf("%d connections at once: %v", n, time.Since(start))
}

func (g *qemuGuest) roundTrip(t *testing.T) {
	c := g.dial(t, "e")
	defer c.Close()
	const n = 500
	b := make([]byte, 1)
	start := time.Now()
	for range n {
		c.Write(b)
		if _, err := c.Read(b); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("round trip of a byte: %v", time.Since(start)/n)
}

// socketpair is a pair of connected Unix sockets, closed with the test.
func socketpair(t testing.TB) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	conn := func(fd int) *net.UnixConn {
		f := os.NewFile(uintptr(fd), "vhost-user")
		defer f.Close()
		c, err := net.FileConn(f)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c.(*net.UnixConn)
	}
	return conn(fds[0]), conn(fds[1])
}
