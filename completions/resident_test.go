package completions

import (
	"context"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// startResident serves the server's answers on a socket, and returns its path.
func startResident(t *testing.T, r *Resident, idle time.Duration) (path string, done chan error) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done = make(chan error, 1)
	go func() { done <- r.Serve(ctx, l, idle) }()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return path, done
}

func askAt(t *testing.T, path, line string) (*Answer, error) {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	return AskResident(ctx, c, &Request{Dir: "/", Command: NewCommand(ParseBash(line, len(line))), HostFiles: true})
}

// Shells that ask at the same time get each their own answer, and one that goes
// away early costs nobody else.
func TestResident(t *testing.T) {
	s := startServer(t, "_see() { COMPREPLY=(\"$2\"); }; complete -F _see see\n")
	answered := make(chan string, 100)
	r := &Resident{Server: s, Kill: func() { t.Error("the server is killed") },
		Answered: func(q *Request, a *Answer) { answered <- q.Command.Cur }}
	path, done := startResident(t, r, 3*time.Second)
	gone, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	var wg sync.WaitGroup
	for i := range 8 {
		word := strings.Repeat("x", i+1)
		wg.Go(func() {
			if a, err := askAt(t, path, "see "+word); err != nil || len(a.Candidates) != 1 || a.Candidates[0] != word {
				t.Errorf("%s: %+v, %v", word, a, err)
			}
		})
	}
	wg.Wait()
	if a, err := askAt(t, path, "see last\x00"); err != nil || len(a.Candidates) != 0 {
		t.Errorf("a line with a NUL byte: %+v, %v", a, err)
	}
	if a, err := askAt(t, path, "see last"); err != nil || len(a.Candidates) != 1 {
		t.Errorf("after it: %+v, %v", a, err)
	}
	if got := <-answered; got != "last" || len(answered) != 0 {
		t.Errorf("Answered is told of %q, and %d others", got, len(answered))
	}
	if err := <-done; err != nil {
		t.Errorf("it has not ended by itself in good order: %v", err)
	}
	done <- nil // for the clean-up
}

// A guest that says nonsense ends the resident, with a reason.
func TestResidentEndsWithServer(t *testing.T) {
	r := &Resident{Server: NewServer(&strings.Builder{}, strings.NewReader("nonsense\x00")), Kill: func() {}}
	path, done := startResident(t, r, time.Minute)
	if a, err := askAt(t, path, "a b"); err == nil {
		t.Errorf("an answer: %+v", a)
	}
	if err := <-done; err == nil {
		t.Error("it ends as if all were well")
	}
	done <- nil
}
