package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/stilehq/stile/distro/debian"
)

// peer is what one sets up by hand: QEMU's microvm with Debian's cloud kernel,
// the same root file system, C virtiofsd, and sshd over user-mode network.
type peer struct {
	*bench
	dir    string // of sockets and the disk
	shared string
	port   int

	qemu, virtiofsd *exec.Cmd
}

const (
	qemuProgram      = "qemu-system-x86_64"
	virtiofsdProgram = "/usr/lib/qemu/virtiofsd"
)

// makeImage makes the peer's kernel, initrd, disk and key, once for what they are
// made from.
func (b *bench) makeImage() error {
	script := filepath.Join(b.source, "testdata/bench/peer.sh")
	text, err := os.ReadFile(script)
	if err != nil {
		return err
	}
	packages := strings.Join(debian.Packages, ",")
	sum := sha256.Sum256([]byte(string(text) + packages))
	b.image = filepath.Join(b.cache, "stile/bench", hex.EncodeToString(sum[:6]))
	if _, err := os.Stat(b.image); err == nil {
		return nil
	}
	fmt.Fprintln(os.Stderr, "bench: making the peer's image (once)")
	if err := os.MkdirAll(filepath.Dir(b.image), 0o700); err != nil {
		return err
	}
	making, err := os.MkdirTemp(filepath.Dir(b.image), "making-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(making)
	if err := run(exec.CommandContext(b.ctx, script, making, packages)); err != nil {
		return err
	}
	return os.Rename(making, b.image)
}

func (b *bench) newPeer() (*peer, error) {
	if err := b.makeImage(); err != nil {
		return nil, err
	}
	p := &peer{bench: b, dir: filepath.Join(b.work, "peer"), shared: filepath.Join(b.work, "shared")}
	for _, dir := range []string{p.dir, p.shared} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p.port = l.Addr().(*net.TCPAddr).Port
	if err := l.Close(); err != nil {
		return nil, err
	}
	return p, run(exec.Command("cp", "--sparse=always", p.file("disk.img"), filepath.Join(p.dir, "disk.img")))
}

func (p *peer) file(name string) string { return filepath.Join(p.image, name) }
func (p *peer) name() string            { return "by hand" }
func (p *peer) folder() string          { return p.shared }

// boot starts virtiofsd and QEMU, and runs ssh at the moment when sshd says on
// the console that it listens: no user is that quick. The connection that later
// commands share is made after that.
func (p *peer) boot(ctx context.Context) (took time.Duration, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, p.stop())
		}
	}()
	start := time.Now()
	socket := filepath.Join(p.dir, "virtiofsd.sock")
	if err := os.RemoveAll(socket); err != nil {
		return 0, err
	}
	p.virtiofsd = exec.Command(virtiofsdProgram, "--socket-path="+socket,
		"-o", "source="+p.shared, "-o", "cache=auto", "-o", "timeout="+p.timeout)
	dieWithUs(p.virtiofsd)
	if err := p.virtiofsd.Start(); err != nil {
		return 0, err
	}
	for ctx.Err() == nil {
		if _, err := os.Stat(socket); err == nil {
			break
		}
		time.Sleep(time.Millisecond)
	}
	p.qemu = exec.Command(qemuProgram, p.args(socket)...)
	dieWithUs(p.qemu)
	p.qemu.Stderr = os.Stderr
	console, err := p.qemu.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := p.qemu.Start(); err != nil {
		return 0, err
	}
	// A guest that hangs ends after two minutes, and the wait with it.
	hung := time.AfterFunc(2*time.Minute, func() { _ = p.qemu.Process.Kill() })
	defer hung.Stop()
	listening := make(chan error, 1)
	go watch(console, "Server listening on 0.0.0.0", listening)
	select {
	case err = <-listening:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		return 0, err
	}
	if took, err = firstByte(p.ssh(ctx, "-o", "ControlPath=none", "root@127.0.0.1", "echo x"), start); err != nil {
		return 0, err
	}
	return took, run(p.ssh(ctx, "-o", "ControlMaster=yes", "-f", "-N", "root@127.0.0.1"))
}

// watch reads a console to its end, and tells when a line has the text, or that
// none had.
func watch(console io.Reader, text string, found chan<- error) {
	var last []string
	lines := bufio.NewScanner(console)
	for lines.Scan() {
		if strings.Contains(lines.Text(), text) {
			found <- nil
			break
		}
		if last = append(last, lines.Text()); len(last) > 20 {
			last = last[1:]
		}
	}
	_, _ = io.Copy(io.Discard, console) // so that the guest's console does not fill up
	select {
	case found <- fmt.Errorf("the peer ended before its sshd listened: %s", strings.Join(last, "; ")):
	default:
	}
}

// cloudHZ is CONFIG_HZ of Debian's cloud kernel.
const cloudHZ = 250

// args are QEMU's. The cloud kernel takes virtio-mmio devices from ACPI only,
// and qboot is the firmware with which that is quickest.
func (p *peer) args(socket string) []string {
	memory := strconv.Itoa(p.memory) + "M"
	// A guest under TCG that is not told how fast its clock runs calibrates it
	// against the PIT, and hangs where the host is too busy for that.
	accel, cpu, clock := "tcg,thread=multi", "max", fmt.Sprintf(" tsc=reliable tsc_early_khz=%d lpj=%d", tscKHz(), tscKHz()*1000/cloudHZ)
	if p.accel == "kvm" {
		accel, cpu, clock = "kvm", "host", ""
	}
	return []string{
		"-M", "microvm,acpi=on,x-option-roms=off,rtc=on,memory-backend=mem", "-bios", "qboot.rom",
		"-accel", accel, "-cpu", cpu, "-smp", strconv.Itoa(p.cpus), "-m", memory,
		"-object", "memory-backend-memfd,id=mem,share=on,size=" + memory,
		"-global", "virtio-mmio.force-legacy=false",
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio",
		"-kernel", p.file("vmlinux"), "-initrd", p.file("initrd"),
		"-append", "console=ttyS0 quiet panic=-1 reboot=t share=" + p.shared + clock,
		"-drive", "file=" + filepath.Join(p.dir, "disk.img") + ",format=raw,if=none,id=disk",
		"-device", "virtio-blk-device,drive=disk",
		"-device", "virtio-rng-device",
		"-chardev", "socket,id=fs,path=" + socket,
		"-device", "vhost-user-fs-device,chardev=fs,tag=share,queue-size=1024",
		"-netdev", fmt.Sprintf("user,id=net,hostfwd=tcp:127.0.0.1:%d-:22", p.port),
		"-device", "virtio-net-device,netdev=net",
	}
}

// tscKHz is the frequency of the host's time stamp counter, which TCG hands
// through, as the kernel found it: bogomips are computed from it.
func tscKHz() int {
	data, _ := os.ReadFile("/proc/cpuinfo")
	_, rest, _ := strings.Cut(string(data), "bogomips")
	_, rest, _ = strings.Cut(rest, ":")
	mips, _ := strconv.ParseFloat(strings.Fields(rest + " 0")[0], 64)
	return int(mips*500 + 0.5)
}

func (p *peer) stop() error {
	var errs []error
	if p.qemu != nil && p.qemu.Process != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		// The guest has nothing to lose but what the next boot's journal replay
		// would cost.
		_ = p.shell(ctx, "sync; mount -o remount,ro /").Run()
		_ = p.ssh(ctx, "-O", "exit", "root@127.0.0.1").Run()
		errs = append(errs, kill(p.qemu))
	}
	if p.virtiofsd != nil && p.virtiofsd.Process != nil {
		// It ends with QEMU's connection, and takes its child along; killed, it
		// would leave that to init.
		late := time.AfterFunc(5*time.Second, func() { _ = p.virtiofsd.Process.Kill() })
		_ = p.virtiofsd.Wait()
		late.Stop()
	}
	p.qemu, p.virtiofsd = nil, nil
	return errors.Join(errs...)
}

// kill ends a process that this one started and waits until it is gone.
func kill(cmd *exec.Cmd) error {
	if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	_ = cmd.Wait() // killed
	return nil
}

// ssh knows the one guest that answers at the port. A line of known_hosts would
// be of the host key that peer.sh made.
func (p *peer) ssh(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "ssh", append([]string{
		"-F", "none", "-i", p.file("key"), "-p", strconv.Itoa(p.port), "-T",
		"-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR",
		"-o", "ControlPath=" + filepath.Join(p.dir, "ssh.sock"),
	}, args...)...)
}

func (p *peer) command(ctx context.Context, program string) *exec.Cmd { return p.shell(ctx, program) }

func (p *peer) shell(ctx context.Context, line string) *exec.Cmd {
	return p.ssh(ctx, "root@127.0.0.1", line)
}

// pids are QEMU, virtiofsd with its child that has the files, and the ssh that
// holds the connection.
func (p *peer) pids() ([]int, error) {
	// It says "Master running (pid=N)", to stderr.
	said, err := p.ssh(context.Background(), "-O", "check", "root@127.0.0.1").CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("ssh -O check: %w: %s", err, said)
	}
	var master int
	_, number, _ := strings.Cut(string(said), "pid=")
	if _, err := fmt.Sscan(strings.TrimSpace(strings.ReplaceAll(number, ")", " ")), &master); err != nil {
		return nil, fmt.Errorf("ssh -O check says %q", said)
	}
	pids := []int{master, p.qemu.Process.Pid}
	files, err := tree(p.virtiofsd.Process.Pid)
	return append(pids, files...), err
}
