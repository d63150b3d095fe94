package agent

import (
	"bytes"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/interop/guest"
)

// A process is one of /proc, numbered as guestinit sees it.
type process struct {
	pid, parent, group, session int
	name                        string
	state                       byte
}

// eachProcess reads /proc. A process that ends meanwhile is left out.
func eachProcess(yield func(process) bool) {
	d, err := os.Open("/proc")
	if err != nil {
		return
	}
	names, _ := d.Readdirnames(-1)
	d.Close()
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if p, ok := readProcess(pid); ok && !yield(p) {
			return
		}
	}
}

func readProcess(pid int) (p process, ok bool) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return p, false
	}
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 0 || end < open {
		return p, false
	}
	f := strings.Fields(string(b[end+1:]))
	if len(f) < 4 {
		return p, false
	}
	p = process{pid: pid, name: string(b[open+1 : end]), state: f[0][0]}
	p.parent, _ = strconv.Atoi(f[1])
	p.group, _ = strconv.Atoi(f[2])
	p.session, _ = strconv.Atoi(f[3])
	return p, true
}

// sessionHasOthers reports whether a process besides its leader belongs to a
// session. One that has ended and only waits to be collected does not.
func sessionHasOthers(leader int) bool {
	found := false
	eachProcess(func(p process) bool {
		found = p.session == leader && p.pid != leader && p.state != 'Z' && p.state != 'X'
		return !found
	})
	return found
}

// groupInside is the number that a process group, numbered as guestinit sees it,
// has in the distro's pid namespace; 0 if it has no process.
func groupInside(group int) int {
	inside := 0
	eachProcess(func(p process) bool {
		if p.group == group {
			inside = lastField("/proc/"+strconv.Itoa(p.pid)+"/status", "NSpgid:")
		}
		return inside == 0
	})
	return inside
}

// lastField is the last number of a line of a status file: that of the innermost
// namespace.
func lastField(path, key string) int {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, key); ok {
			f := strings.Fields(rest)
			if len(f) == 0 {
				return 0
			}
			n, _ := strconv.Atoi(f[len(f)-1])
			return n
		}
	}
	return 0
}

// processes lists what runs in the distro besides stile's own and the commands
// of sessions with what descends from them: what keeps a machine alive though no
// command runs.
func (a *Agent) processes() guest.Processes {
	out := guest.Processes{Left: []guest.Process{}}
	running := make(map[int]bool) // sitters whose command runs
	sitters := make(map[int]bool)
	a.mu.Lock()
	for _, s := range a.sessions {
		sitter := s.process.Sitter()
		if sitter == 0 {
			continue
		}
		sitters[sitter] = true
		if !s.hasEnded() {
			out.Sessions++
			running[sitter] = true
		}
	}
	a.mu.Unlock()
	all := make(map[int]process)
	eachProcess(func(p process) bool { all[p.pid] = p; return true })
	reaper := a.opts.Spawner.Reaper()
	for pid, p := range all {
		if p.state == 'Z' || p.state == 'X' || sitters[pid] || pid == reaper || !inDistro(all, p, reaper, sitters) {
			continue
		}
		if running[p.session] || descends(all, p, running) {
			continue
		}
		out.Left = append(out.Left, guest.Process{
			PID:     lastField("/proc/"+strconv.Itoa(pid)+"/status", "NSpid:"),
			Command: commandLine(pid, p.name),
		})
	}
	return out
}

// inDistro reports whether p descends from the reaper or a sitter: kernel
// threads and guestinit do not.
func inDistro(all map[int]process, p process, reaper int, sitters map[int]bool) bool {
	for range len(all) {
		if p.pid == reaper || sitters[p.pid] {
			return true
		}
		parent, ok := all[p.parent]
		if !ok {
			return false
		}
		p = parent
	}
	return false
}

func descends(all map[int]process, p process, from map[int]bool) bool {
	for range len(all) {
		if from[p.pid] {
			return true
		}
		parent, ok := all[p.parent]
		if !ok {
			return false
		}
		p = parent
	}
	return false
}

func commandLine(pid int, name string) string {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
	if err != nil || len(b) == 0 {
		return name
	}
	return string(bytes.ReplaceAll(bytes.TrimRight(b, "\x00"), []byte{0}, []byte{' '}))
}

// signalAll signals every process of the distro but the reaper, and reports how
// many there were.
func (a *Agent) signalAll(sig unix.Signal) int {
	a.mu.Lock()
	sitters := make(map[int]bool)
	for _, s := range a.sessions {
		if sitter := s.process.Sitter(); sitter != 0 {
			sitters[sitter] = true
		}
	}
	a.mu.Unlock()
	all := make(map[int]process)
	eachProcess(func(p process) bool { all[p.pid] = p; return true })
	reaper := a.opts.Spawner.Reaper()
	n := 0
	for pid, p := range all {
		if pid != reaper && !sitters[pid] && p.state != 'Z' && inDistro(all, p, reaper, sitters) {
			unix.Kill(pid, sig)
			n++
		}
	}
	return n
}
