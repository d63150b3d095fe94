package policy

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"
)

// An Entry is one line of the log: what a guest asked for, and the answer.
type Entry struct {
	Time    time.Time `json:"time"`
	Distro  string    `json:"distro"`
	Command string    `json:"command"` // as the guest named it
	Args    []string  `json:"args,omitempty"`
	Answer  string    `json:"answer"` // "allowed" or "denied"
	Why     string    `json:"why,omitempty"`
	Path    string    `json:"path,omitempty"` // what was run
}

// What the log takes at most: of one entry's arguments, and in all, twice.
const (
	maxLogArgs = 4 << 10
	maxLog     = 1 << 20
)

// A Log is the file of what guests asked for. Its methods may be called
// concurrently; several machines write to one file.
type Log struct {
	Path string
	mu   sync.Mutex
}

// Add writes one entry. When the log is full it becomes Path.old.
func (l *Log) Add(e Entry) error {
	room := maxLogArgs
	for i, a := range e.Args {
		if room -= len(a) + 1; room < 0 {
			e.Args = append(e.Args[:i:i], "...")
			break
		}
	}
	if len(e.Command) > maxLogArgs {
		e.Command = e.Command[:maxLogArgs] + "..."
	}
	b, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("log: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if info, err := os.Stat(l.Path); err == nil && info.Size() > maxLog {
		if err := os.Rename(l.Path, l.Path+".old"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("log: %w", err)
		}
	}
	f, err := os.OpenFile(l.Path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("log: %w", err)
	}
	_, err = f.Write(append(b, '\n'))
	return errors.Join(err, f.Close())
}

// ReadLog reads the log, oldest first, with what it had before it was full. Lines
// that are none are left out: a crash may have cut one.
func ReadLog(path string) ([]Entry, error) {
	var all []Entry
	for _, p := range []string{path + ".old", path} {
		f, err := os.Open(p)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read log: %w", err)
		}
		lines := bufio.NewScanner(f)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			var e Entry
			if json.Unmarshal(lines.Bytes(), &e) == nil {
				all = append(all, e)
			}
		}
		err = lines.Err()
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("read log: %w", err)
		}
	}
	return all, nil
}
