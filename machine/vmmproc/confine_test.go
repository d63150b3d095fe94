package vmmproc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// hostileEnv makes the test binary the process that has been taken over.
const hostileEnv = "STILE_TEST_HOSTILE"

func TestMain(m *testing.M) {
	if os.Getenv(hostileEnv) != "" {
		hostile()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// attempts are what a confined process tries.
var attempts = []struct {
	name string
	try  func() error
	want error
}{
	{"execute", func() error { return unix.Exec("/bin/true", []string{"true"}, nil) }, unix.EPERM},
	{"run a program", func() error { return exec.Command("/bin/true").Run() }, unix.EPERM},
	{"execute a descriptor", func() error {
		_, _, e := unix.Syscall6(unix.SYS_EXECVEAT, ^uintptr(99), 0, 0, 0, 0, 0)
		return e
	}, unix.EPERM},
	{"fork", func() error {
		_, _, e := unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
		return e
	}, unix.EPERM},
	{"clone3", func() error { _, _, e := unix.RawSyscall(unix.SYS_CLONE3, 0, 0, 0); return e }, unix.ENOSYS},
	{"socket", func() error { _, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0); return err }, unix.EPERM},
	{"signal the parent", func() error { return unix.Kill(os.Getppid(), 0) }, unix.EPERM},
	{"signal everybody", func() error { return unix.Kill(-1, 0) }, unix.EPERM},
	{"signal the parent's thread", func() error { return unix.Tgkill(os.Getppid(), os.Getppid(), 0) }, unix.EPERM},
	{"trace", func() error { return unix.PtraceAttach(os.Getppid()) }, unix.EPERM},
	{"look into the parent", func() error {
		b := make([]byte, 1)
		_, err := unix.ProcessVMReadv(os.Getppid(), []unix.Iovec{{Base: &b[0], Len: 1}}, []unix.RemoteIovec{{Base: 4096, Len: 1}}, 0)
		return err
	}, unix.EPERM},
	{"namespaces", func() error { return unix.Unshare(unix.CLONE_NEWUSER) }, unix.EPERM},
	{"a call of x32", func() error { _, _, e := unix.RawSyscall(0x40000000+59, 0, 0, 0); return e }, unix.ENOSYS},

	{"signal itself", func() error { return unix.Kill(os.Getpid(), 0) }, nil},
	{"signal its thread", func() error { return unix.Tgkill(os.Getpid(), os.Getpid(), 0) }, nil},
	{"open a file", func() error {
		f, err := os.Open("/proc/self/status")
		if err == nil {
			f.Close()
		}
		return err
	}, nil},
	{"start a thread", func() error {
		started := make(chan struct{})
		go func() { // it ends with its goroutine, which does not unlock it
			runtime.LockOSThread()
			close(started)
		}()
		<-started
		return nil
	}, nil},
}

// hostile confines the process and prints what does not end as it should, on a
// thread that was there before and on the one that asked.
func hostile() {
	there := make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range there {
			f()
		}
	}()
	ran := make(chan struct{})
	there <- func() {}
	if err := confine(); err != nil {
		fmt.Println("confine:", err)
		return
	}
	try := func(where string) {
		for _, a := range attempts {
			if err := a.try(); !errors.Is(err, a.want) && (a.want != nil || err != nil) {
				fmt.Printf("%s: %s: %v, want %v\n", where, a.name, err, a.want)
			}
		}
	}
	try("the calling thread")
	there <- func() { try("an older thread"); close(ran) }
	<-ran
	fmt.Println("tried", len(attempts))
}

// A process that has been taken over can neither execute nor reach out, as
// whatever user.
func TestConfine(t *testing.T) {
	users := map[string]*syscall.Credential{"the calling user": nil}
	if os.Geteuid() == 0 {
		users["a plain user"] = &syscall.Credential{Uid: 65534, Gid: 65534}
	}
	for name, user := range users {
		t.Run(name, func(t *testing.T) {
			// Its binary's folder may be closed to others.
			self, err := os.Open("/proc/self/exe")
			if err != nil {
				t.Fatal(err)
			}
			defer self.Close()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, "/proc/self/fd/3")
			cmd.ExtraFiles = []*os.File{self}
			cmd.Env = append(os.Environ(), hostileEnv+"=1")
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: user}
			out, err := cmd.CombinedOutput()
			if want := fmt.Sprintf("tried %d\n", len(attempts)); string(out) != want || err != nil {
				t.Errorf("%v:\n%s\nwant %s", err, out, strings.TrimSpace(want))
			}
		})
	}
}
