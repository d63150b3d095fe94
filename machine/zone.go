package machine

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/stilehq/stile/interop/guest"
	"github.com/stilehq/stile/machine/vmmproc"
)

// localtime is the file whose zone is the host's.
const localtime = "/etc/localtime"

// maxZone bounds what is read of it; the largest that there are have 4 KB.
const maxZone = 64 << 10

// hostZone is the time zone of a localtime file.
func hostZone(path string) (z guest.Zone) {
	if target, err := os.Readlink(path); err == nil {
		_, z.Name, _ = strings.Cut(target, "/zoneinfo/")
	}
	f, err := os.Open(path)
	if err != nil {
		return z // there is none: UTC, as for every program of the host
	}
	defer f.Close()
	if b, err := io.ReadAll(io.LimitReader(f, maxZone)); err == nil && len(b) < maxZone {
		z.Data = b
	}
	return z
}

// A zoneWatch tells a running guest where the host's time zone has changed. There
// is nothing that runs for it: each command's start looks.
type zoneWatch struct {
	path string

	mu   sync.Mutex
	seen string // what was looked at when the guest was told last
}

// watchZone begins with what the file is now.
func watchZone(path string) *zoneWatch {
	w := &zoneWatch{path: path}
	w.seen = w.look()
	return w
}

// look is what tells one state of the file from another, at two system calls.
func (w *zoneWatch) look() string {
	target, _ := os.Readlink(w.path)
	info, err := os.Stat(w.path)
	if err != nil {
		return target
	}
	return fmt.Sprint(target, " ", info.Size(), " ", info.ModTime().UnixNano())
}

// followZone tells the guest of the host's zone if that is not what it was. It returns
// when the guest has it, for the command that is to be started.
func (s *supervisor) followZone(ctx context.Context) {
	w := s.zone
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.look()
	if now == w.seen {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, guestLimit)
	defer cancel()
	if err := s.vm.calls.Do(ctx, vmmproc.CallZone, hostZone(w.path), nil); err != nil {
		fmt.Fprintf(s.spec.console, "stile: distro %s: %s: follow the host's time zone: %v\n", s.spec.guest.Distro, time.Now().Format(time.TimeOnly), err)
		return // the next command asks again
	}
	w.seen = now
}
