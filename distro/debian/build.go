package debian

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

// customize takes out what is the host's, for mmdebstrap copies both files, and
// the option that only this installation is to have.
const customize = `rm -f "$1/etc/resolv.conf" "$1/etc/hostname" "$1/etc/dpkg/dpkg.cfg.d/99mmdebstrap"`

// spaceNeeded is what mmdebstrap needs for the unpacked root file system.
const spaceNeeded = 1 << 30

// build runs mmdebstrap and puts the archive at file, whole or not at all.
func (b *bootstrap) build(ctx context.Context, file string, date time.Time) (err error) {
	what := "install debian:" + b.Suite
	program := lookPath(b.Path, "mmdebstrap")
	if program == "" {
		return &Error{What: what, Why: "there is no mmdebstrap on this system", Cure: "sudo apt install mmdebstrap"}
	}
	mode, err := ChooseMode(b.Path)
	if err != nil {
		return err
	}
	list, err := b.sourcesList()
	if err != nil {
		return err
	}
	temp, err := tempDir()
	if err != nil {
		return &Error{What: what, Why: err.Error(), Cure: "make room there, or set TMPDIR to a folder with room", Err: err}
	}
	out, err := os.CreateTemp(b.Cache, ".new-")
	if err != nil {
		return fmt.Errorf("write root file system: %w", err)
	}
	defer func() {
		out.Close()
		if err != nil {
			os.Remove(out.Name())
		}
	}()
	args := []string{
		"--mode=" + string(mode), "--variant=minbase", "--format=tar",
		"--include=" + strings.Join(Packages, ","),
		"--customize-hook=" + customize,
		// dpkg's fsync of each file is for a system that may lose power.
		"--dpkgopt=force-unsafe-io",
	}
	args = append(args, b.aptOptions(ctx)...)
	if strings.Contains(list, "file:") {
		args = append(args, "--hook-dir=/usr/share/mmdebstrap/hooks/file-mirror-automount")
	}
	args = append(args, b.Suite, "-")
	if list != "" {
		args = append(args, "-")
	}
	cmd := exec.CommandContext(ctx, program, args...)
	// The date of the release makes two runs give the same bytes.
	cmd.Env = append(b.env(), "TMPDIR="+temp, fmt.Sprintf("SOURCE_DATE_EPOCH=%d", date.Unix()))
	cmd.Stdin = strings.NewReader(list)
	cmd.Dir = "/"
	if err := b.runTo(cmd, out); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return err
	}
	if err := out.Sync(); err != nil {
		return fmt.Errorf("write root file system: %w", err)
	}
	return os.Rename(out.Name(), file)
}

// runTo runs mmdebstrap with its output compressed to out.
func (b *bootstrap) runTo(cmd *exec.Cmd, out io.Writer) error {
	z, err := zstd.NewWriter(out, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	log := &log{progress: b.Progress}
	counted := &counter{w: z}
	cmd.Stdout, cmd.Stderr = counted, log
	// It takes its own children and its folder along when it is told to end. A
	// group of its own keeps the terminal's Ctrl-C from reaching it twice.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 30 * time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	runtime.LockOSThread() // Pdeathsig is the end of this thread (prctl(2))
	defer runtime.UnlockOSThread()
	runErr := cmd.Run()
	closeErr := z.Close()
	switch {
	case counted.err != nil:
		return fmt.Errorf("write root file system: %w", counted.err)
	case runErr != nil:
		why := runErr.Error()
		if said := log.last(); said != "" {
			why = said
		}
		return &Error{What: "install debian:" + b.Suite, Why: "mmdebstrap: " + why,
			Cure: "check the network, the room on the disk, and that sudo apt update works", Err: runErr}
	case closeErr != nil:
		return fmt.Errorf("write root file system: %w", closeErr)
	}
	return nil
}

// sourcesList is the one that mmdebstrap is to use and the distro will have,
// empty if mmdebstrap's own mirror is to be used.
func (b *bootstrap) sourcesList() (string, error) {
	key, err := b.keyringFor(b.archive)
	if err != nil {
		return "", err
	}
	var list strings.Builder
	for _, p := range b.pockets {
		if p.uri != b.archive.uri {
			if key, err = b.keyringFor(p.mirror); err != nil {
				return "", err
			}
		}
		fmt.Fprintf(&list, "deb [signed-by=%s] %s %s main\n", key, p.uri, p.suite)
	}
	return list.String(), nil
}

// aptOptions hands on those settings of the host's apt without which the mirror
// may not be reached, or not be believed.
func (b *bootstrap) aptOptions(ctx context.Context) []string {
	cmd := exec.CommandContext(ctx, "/usr/bin/apt-config", "dump",
		"Acquire::http::Proxy", "Acquire::https::Proxy", "Acquire::Check-Valid-Until", "Acquire::Check-Date")
	cmd.Env = b.env()
	out, err := cmd.Output()
	if err != nil {
		return nil
	}
	var options []string
	for line := range strings.Lines(string(out)) {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasSuffix(line, ` "";`) {
			options = append(options, "--aptopt="+line)
		}
	}
	return options
}

// tempDir is the folder in which mmdebstrap unpacks: the user's choice, else
// /var/tmp, which is on a disk where /tmp may be in memory.
func tempDir() (string, error) {
	dir := os.Getenv("TMPDIR")
	if dir == "" {
		dir = "/var/tmp"
	}
	if dir = filepath.Clean(dir); unix.Access(dir, unix.W_OK) != nil {
		return "", fmt.Errorf("%s can't be written", dir)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return "", fmt.Errorf("%s: %w", dir, err)
	}
	if free := st.Bavail * uint64(st.Bsize); free < spaceNeeded {
		return "", fmt.Errorf("%s has %d MiB free, and %d are needed", dir, free>>20, spaceNeeded>>20)
	}
	return dir, nil
}

// A counter remembers the first error of its writer, which os/exec would mix
// with the program's own.
type counter struct {
	w   io.Writer
	err error
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	if err != nil && c.err == nil {
		c.err = err
	}
	return n, err
}

// steps are those of mmdebstrap's lines that mean something to a user.
var steps = []struct{ said, meaning string }{
	{"running apt-get update", "reading the mirror's package lists"},
	{"downloading packages", "downloading packages"},
	{"extracting archives", "unpacking the essential packages"},
	{"installing essential", "installing the essential packages"},
	{"installing remaining", "installing the other packages"},
	{"creating tarball", "writing the archive"},
}

// A log is mmdebstrap's stderr: its steps are lines that start with "I: ".
type log struct {
	progress func(string)
	partial  []byte
	lines    []string // the last ones
}

func (l *log) Write(p []byte) (int, error) {
	l.partial = append(l.partial, p...)
	for {
		line, rest, ok := bytes.Cut(l.partial, []byte("\n"))
		if !ok {
			return len(p), nil
		}
		l.line(strings.TrimSpace(string(line)))
		l.partial = rest
	}
}

func (l *log) line(line string) {
	if line == "" {
		return
	}
	if step, ok := strings.CutPrefix(line, "I: "); ok {
		for _, s := range steps {
			if strings.HasPrefix(step, s.said) {
				l.progress(s.meaning)
			}
		}
		return
	}
	if l.lines = append(l.lines, line); len(l.lines) > 100 {
		l.lines = l.lines[1:]
	}
}

// last is the line that says best what was wrong: the first error of apt's or
// dpkg's among the last lines, for those after it follow from it.
func (l *log) last() string {
	l.line(string(l.partial))
	for _, line := range l.lines {
		for _, prefix := range []string{"E: ", "dpkg: error", "tar: "} {
			if strings.HasPrefix(line, prefix) {
				return strings.TrimPrefix(line, "E: ")
			}
		}
	}
	if len(l.lines) > 0 {
		return l.lines[len(l.lines)-1]
	}
	return ""
}
