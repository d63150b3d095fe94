package completions

import (
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// ResidentIdle is how long a completion server stays after its last request, while
// the machine runs, which it does not keep from ending.
const ResidentIdle = 10 * time.Minute

// askLimit is how long one answer may take, in an emulated guest that loads a
// command's functions for the first time. The server itself ends a function that
// takes longer than it allows; this is for a guest that does not answer at all.
const askLimit = 40 * time.Second

// A Resident hands the requests of all shells on to the one server of a distro.
type Resident struct {
	Server *Server
	// Kill ends the server at once; Ask then returns.
	Kill func()
	// Answered is called some time after an answer that no other request came
	// after, and may Ask; may be nil.
	Answered func(*Request, *Answer)

	mu   sync.Mutex // one request at a time
	last *Request
	idle *time.Timer
}

// calm is how long after an answer there is time for Answered.
const calm = time.Second

// Serve answers until nothing was asked for the time idle, ctx is done, or the
// server has failed. It closes the listener.
func (r *Resident) Serve(ctx context.Context, l net.Listener, idle time.Duration) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	context.AfterFunc(ctx, func() { l.Close() })
	errIdle := errors.New("idle")
	r.idle = time.AfterFunc(idle, func() { cancel(errIdle) })
	defer r.idle.Stop()
	var conns sync.WaitGroup
	for {
		c, err := l.Accept()
		if err != nil {
			conns.Wait()
			if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, errIdle) && !errors.Is(cause, context.Canceled) {
				return cause
			} else if cause != nil {
				return nil
			}
			return fmt.Errorf("accept: %w", err)
		}
		r.idle.Reset(idle)
		conns.Go(func() {
			defer c.Close()
			if err := r.answer(c); err != nil {
				cancel(err)
			}
		})
	}
}

// answer serves one connection. Its error is the server's, after which there is
// nothing left to serve with.
func (r *Resident) answer(c net.Conn) error {
	c.SetDeadline(time.Now().Add(2 * askLimit))
	var q Request
	if gob.NewDecoder(io.LimitReader(c, maxAnswer)).Decode(&q) != nil {
		return nil
	}
	r.mu.Lock()
	r.last = &q
	a, err := r.Ask(&q)
	r.mu.Unlock()
	if err != nil {
		return err
	}
	// Whoever asked may have gone: the answer was worth it, it has warmed the server.
	gob.NewEncoder(c).Encode(a)
	c.Close()
	if r.Answered == nil {
		return nil
	}
	time.Sleep(calm)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last == &q {
		r.Answered(&q, a)
	}
	return nil
}

// Ask asks the server, which has a limit of time. Only Answered may call it.
func (r *Resident) Ask(q *Request) (*Answer, error) {
	if _, err := q.code(); err != nil {
		return &Answer{}, nil // of this request alone
	}
	limit := time.AfterFunc(askLimit, r.Kill)
	defer limit.Stop()
	return r.Server.Ask(q)
}

// AskResident asks the resident behind a connection, which it closes.
func AskResident(ctx context.Context, c net.Conn, q *Request) (*Answer, error) {
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := gob.NewEncoder(c).Encode(q); err != nil {
		return nil, fmt.Errorf("ask for completions: %w", err)
	}
	var a Answer
	if err := gob.NewDecoder(io.LimitReader(c, maxAnswer+1<<20)).Decode(&a); err != nil {
		return nil, fmt.Errorf("ask for completions: %w", err)
	}
	return &a, nil
}
