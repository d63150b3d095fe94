// Package call is a request and its answer over any connection: wire.Call with a
// JSON body, answered by wire.Answer. Everything that is not on the way of a
// command goes this way: status, stop, shares.
package call

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/stilehq/stile/interop/wire"
)

// ErrNoAnswer says that the other side went away, or gave no answer in time. After
// the latter the next call can still be made, and gets its own answer.
var ErrNoAnswer = errors.New("no answer")

// A Conn is what a Client needs of a connection. It is net.Conn but for what
// package net would cost a guest's start.
type Conn interface {
	io.ReadWriteCloser
	SetDeadline(time.Time) error
}

// A Client makes calls on a connection, one at a time.
type Client struct {
	turn   chan struct{} // held by who calls
	conn   Conn
	reader *wire.Reader
	last   uint64 // ID of a call
	broken error
}

// NewClient makes a Client of a connection whose greeting, if it needs one, has
// been sent. The Client closes it.
func NewClient(conn Conn) *Client {
	return &Client{turn: make(chan struct{}, 1), conn: conn, reader: wire.NewReader(conn.Read)}
}

// Close closes the connection; calls under way end with ErrNoAnswer.
func (c *Client) Close() error { return c.conn.Close() }

// Do makes one call and stores its answer in *answer, which may be nil. The
// error is a *wire.Error where the other side refused, and wraps ErrNoAnswer
// where it did not answer before ctx was done.
func (c *Client) Do(ctx context.Context, name string, request, answer any) error {
	m := wire.Call{Name: name}
	if request != nil {
		body, err := json.Marshal(request)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		m.Body = body
	}
	if err := c.begin(ctx); err != nil {
		return fmt.Errorf("%s: %w: %w", name, ErrNoAnswer, err)
	}
	defer c.end()
	if c.broken != nil {
		return c.broken
	}
	a, whole, err := c.exchange(ctx, m)
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		err = fmt.Errorf("%s: %w: %w", name, ErrNoAnswer, err)
		if !whole {
			c.broken = err
			c.conn.Close()
		}
		return err
	}
	if a.Err != nil {
		return a.Err
	}
	if answer == nil {
		return nil
	}
	if err := json.Unmarshal(a.Body, answer); err != nil {
		return fmt.Errorf("%s: answer: %w", name, err)
	}
	return nil
}

// begin waits for the caller's turn.
func (c *Client) begin(ctx context.Context) error {
	select {
	case c.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *Client) end() { <-c.turn }

// bound makes what is done with the connection end with ctx, until the function
// that it returns is called.
func (c *Client) bound(ctx context.Context) (stop func()) {
	c.conn.SetDeadline(time.Time{})
	done := make(chan struct{})
	unregister := context.AfterFunc(ctx, func() {
		defer close(done)
		c.conn.SetDeadline(time.Unix(1, 0))
	})
	return func() {
		if !unregister() {
			<-done // or it would end the next caller's work
		}
	}
}

// exchange makes a call and reads its answer. After an error, whole is whether the
// connection is still between two messages, as it is when no answer has come in
// time: that one is then recognized by its ID, should it come.
func (c *Client) exchange(ctx context.Context, m wire.Call) (a wire.Answer, whole bool, err error) {
	defer c.bound(ctx)()
	c.last++
	m.ID = c.last
	if _, err := c.conn.Write(wire.AppendMessage(nil, wire.TypeCall, m.Append(nil))); err != nil {
		return a, false, err
	}
	for {
		typ, payload, err := c.reader.Next()
		if err != nil {
			return a, errors.Is(err, os.ErrDeadlineExceeded), err
		}
		if typ != wire.TypeAnswer {
			continue // of a newer peer
		}
		if err := a.Parse(payload); err != nil {
			return a, false, err
		}
		if a.ID == m.ID {
			return a, true, nil
		}
	}
}

// Wait returns when the other side has closed the connection, which is how it
// says that something asked for has ended, or when ctx is done.
func (c *Client) Wait(ctx context.Context) error {
	if err := c.begin(ctx); err != nil {
		return err
	}
	defer c.end()
	defer c.bound(ctx)()
	for {
		if _, _, err := c.reader.Next(); err != nil {
			return ctx.Err()
		}
	}
}

// A Handler answers calls. A *wire.Error goes to the caller as it is, any other
// error as the reason of one. The answer is anything that JSON can hold.
type Handler func(ctx context.Context, name string, body []byte) (answer any, err error)

// Serve answers the calls on conn, one after the other, until it ends. It does
// not close conn.
func Serve(ctx context.Context, conn io.ReadWriter, handle Handler) error {
	reader := wire.NewReader(conn.Read)
	for {
		typ, payload, err := reader.Next()
		if err != nil {
			return err
		}
		if typ != wire.TypeCall {
			continue
		}
		if err := Answer(ctx, conn, payload, handle); err != nil {
			return err
		}
	}
}

// Answer answers one call whose payload has been read.
func Answer(ctx context.Context, conn io.ReadWriter, payload []byte, handle Handler) error {
	var m wire.Call
	if err := m.Parse(payload); err != nil {
		return fmt.Errorf("call: %w", err)
	}
	var a wire.Answer
	answer, err := handle(ctx, m.Name, m.Body)
	if err == nil && answer != nil {
		a.Body, err = json.Marshal(answer)
	}
	if err != nil {
		a = wire.Answer{Err: AsError(err, m.Name)}
	}
	a.ID = m.ID
	_, err = conn.Write(wire.AppendMessage(nil, wire.TypeAnswer, a.Append(nil)))
	return err
}

// AsError makes a *wire.Error of any error: itself where it is one, else one of
// status 125 about what, with the hint of an error that has one.
func AsError(err error, what string) *wire.Error {
	var e *wire.Error
	if errors.As(err, &e) {
		return e
	}
	e = &wire.Error{Code: 125, What: what, Why: err.Error()}
	var hinter interface{ Hint() string }
	if errors.As(err, &hinter) {
		e.Hint = hinter.Hint()
	}
	return e
}
